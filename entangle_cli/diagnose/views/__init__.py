"""What a run's columns say under a loss, to whom it may be shown; no torch below this folder."""
