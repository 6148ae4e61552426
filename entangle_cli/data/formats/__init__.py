"""Preference formats of other data sets and trainers: recognised by their columns, rewritten in TRL's shape.

`format` holds the types. `conversations`, `labelled`, `ranked` and `questions` hold the formats by what a row is,
`adjacent` those whose pairs take two rows, and `table` lists them all. `column_map` and `llama_factory` make formats
from what a user or a file says of the columns.
"""
