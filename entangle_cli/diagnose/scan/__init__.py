"""The scan: measures the pairs of a data set with a checkpoint and returns one record per pair."""
