"""The movement of every pair under one step of the user's optimizer, and the real step beside it."""
