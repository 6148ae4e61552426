"""Input: rows, preference pairs, token ids and checkpoints."""
