"""A run's columns as rows of plain values, and the machine-readable outputs made of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from math import isfinite
from typing import IO, Any

from entangle_cli.records import COUNT_FIELDS, SCHEMA, SCHEMA_VERSION, PairRecord, Run
from entangle_cli.report.escape import for_cell, for_spreadsheet

FIELDS = tuple(field.name for field in fields(PairRecord))
FLAGS = {"boundary_moved", "chosen_truncated", "rejected_truncated", "uncertain"}


def rows(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each row as a mapping of every field of `PairRecord` to int, float, bool, str or None.

    NaN and infinities become None.
    """
    present = [(name, columns[name]) for name in FIELDS if name in columns]
    absent = dict.fromkeys(name for name in FIELDS if name not in columns)
    for place in range(len(columns["index"])):
        found = {name: _plain(name, column[place]) for name, column in present}
        yield {name: found.get(name) for name in FIELDS} if absent else found


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    if not isfinite(number):
        return None
    if name in FLAGS:
        return bool(number)
    return int(number) if name in COUNT_FIELDS else number


def write_document(stream: IO[str], run: Run, columns: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """The run document, one pair a line so that a large one can be written and read piece by piece."""
    head = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "status": run.status}
    parts = [f"{json.dumps(name)}: {_json(value)}" for name, value in head.items()]
    parts += [f'"manifest": {_json(run.manifest)}', f'"summary": {_json(summary)}']
    stream.write("{" + ",\n".join(parts) + ',\n"pairs": [')
    separator = "\n"
    for row in rows(columns):
        stream.write(separator + _json(row))
        separator = ",\n"
    stream.write("\n]}\n")


def write_json(stream: IO[str], document: Mapping[str, Any]) -> None:
    """Any other document."""
    json.dump(document, stream, ensure_ascii=True, allow_nan=False, indent=1, default=str)
    stream.write("\n")


def write_json_lines(stream: IO[str], columns: Mapping[str, Any]) -> None:
    """One pair a line."""
    for row in rows(columns):
        stream.write(_json(row) + "\n")


def write_csv(stream: IO[str], columns: Mapping[str, Any]) -> None:
    """One pair a line under a header; text cannot start a formula."""
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows(columns):
        writer.writerow({name: _cell(value) if isinstance(value, str) else value for name, value in row.items()})


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula, no terminal for a command, no log for a line of its own."""
    return for_spreadsheet(for_cell(text))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)
