"""`entangle schema`: what a run document looks like, for programs that read it."""

from __future__ import annotations

import sys

from entangle_cli.cli.options import Debug


def schema(debug: Debug = False) -> None:
    """Print the JSON Schema of the run document."""
    from entangle_cli.report.rows import write_json
    from entangle_cli.report.schema import run_schema

    write_json(sys.stdout, run_schema())
