"""A run on disk: a manifest, and parts of rows that are written once and never changed.

    RUN/manifest.json            identity, plan, environment, status, list of parts with their hashes
    RUN/pairs/part-000000.parquet
    RUN/layers/part-000000.parquet   with --layers: of each pair and parameter group squared norms and inner product
    RUN/summary.json             aggregates

Every file is written under a temporary name and renamed, so that a file that exists is whole. Only parts that
the manifest lists count.
"""
