"""Predicts the movement of every pair under one optimizer step, and compares it with the real step."""
