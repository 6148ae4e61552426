"""Rehearsals: TRL trainers on a copy."""
