"""The measurement: rows of a data set and a checkpoint in, one record per pair out."""
