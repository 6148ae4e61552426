"""The documentation, one topic per file; `entangle explain TOPIC` shows it."""
