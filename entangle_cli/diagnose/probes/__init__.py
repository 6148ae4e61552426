"""Follows the log-probs of probe answers: their tokens, the checkpoint's own answers, and scoring."""
