"""Limits of time and size for chat templates, which are programs of whoever made the checkpoint."""
