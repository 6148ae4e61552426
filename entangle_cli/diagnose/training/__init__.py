"""Measures probe pairs while a trainer trains a model."""
