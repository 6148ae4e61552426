"""What the numbers mean: losses, movement, statistics and gate rules on numpy columns. No torch."""
