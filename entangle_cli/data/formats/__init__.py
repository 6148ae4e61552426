"""Preference formats of other data sets and trainers. They are recognised by their columns and rewritten for TRL.

`format` holds the types. `conversations`, `labelled`, `ranked` and `questions` hold formats with one row per example.
`adjacent` holds the format whose pairs span two rows, and `table` lists all formats. `column_map` and `llama_factory`
create formats from a user's or a file's description of the columns.
"""
