"""The machine-readable outputs of a run: one JSON document, JSON lines, CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from typing import IO, Any

from entangle_cli.records.columns import FIELD_NAMES, rows_of
from entangle_cli.records.run import SCHEMA, SCHEMA_VERSION, Run
from entangle_cli.report.escape import for_cell, for_spreadsheet


def write_document(stream: IO[str], run: Run, columns: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """The run document with one pair per line. A large one can be written and read piece by piece."""
    head = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "status": run.status}
    parts = [f"{json.dumps(name)}: {_json(value)}" for name, value in head.items()]
    parts += [f'"manifest": {_json(run.manifest)}', f'"summary": {_json(summary)}']
    stream.write("{" + ",\n".join(parts) + ',\n"pairs": [')
    separator = "\n"
    for row in rows_of(columns):
        stream.write(separator + _json(row))
        separator = ",\n"
    stream.write("\n]}\n")


def write_json(stream: IO[str], document: Mapping[str, Any]) -> None:
    """Any other document."""
    json.dump(document, stream, ensure_ascii=True, allow_nan=False, indent=1, default=str)
    stream.write("\n")


def write_json_lines(stream: IO[str], columns: Mapping[str, Any]) -> None:
    """One pair a line."""
    for row in rows_of(columns):
        stream.write(_json(row) + "\n")


def write_csv(stream: IO[str], columns: Mapping[str, Any]) -> None:
    """One pair a line under a header; text cannot start a formula."""
    writer = csv.DictWriter(stream, FIELD_NAMES, lineterminator="\n")
    writer.writeheader()
    for row in rows_of(columns):
        writer.writerow({name: _cell(value) if isinstance(value, str) else value for name, value in row.items()})


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula, no terminal for a command, no log for a line of its own."""
    return for_spreadsheet(for_cell(text))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)
