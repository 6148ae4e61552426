"""A run on disk: a manifest, and parts of rows that are written once and never modified.

    RUN/manifest.json            identity, plan, environment, status, list of parts with their hashes
    RUN/pairs/part-000000.parquet
    RUN/layers/part-000000.parquet   with --layers: squared norms and inner product per pair and parameter group
    RUN/summary.json             aggregates

Every file is written under a temporary name and then renamed, so an existing file is always complete. Parts that the
manifest does not list are ignored.
"""
