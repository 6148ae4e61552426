"""Evaluates the measured numbers: losses, movements, statistics and gate rules on numpy columns. Imports no torch."""
