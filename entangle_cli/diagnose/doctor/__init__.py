"""Examines versions, a model, data and a trainer's file before a training."""
