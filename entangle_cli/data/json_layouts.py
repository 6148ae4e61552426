"""Layouts of rows in a JSON document: as written by pandas, by split, or wrapped in an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
Keys = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of a document, and how to write other rows in the same layout."""

    title: str
    rows: Sequence[Any]
    keys: Keys = ()
    """Keys of the rows in the document; empty if rows have no keys."""
    document: Document | None = None
    """The whole document, if the rows are only a part of it."""
    place: str | None = None
    """Key of the list that holds the rows."""

    def with_rows(self, kept: Sequence[tuple[int, Any]]) -> Any:
        """A document with some of the rows.

        Args:
            kept: the index in `rows` and the new content of every row.
        """
        rows = [row for _, row in kept]
        keys = [self.keys[number] for number, _ in kept] if self.keys else []
        match self.title:
            case "one row":
                return rows
            case "columns of lists":
                return {name: [row.get(name) for row in rows] for name in _columns(rows, self.rows)}
            case "columns by row":
                cells = {name: [row.get(name) for row in rows] for name in _columns(rows, self.rows)}
                return {name: dict(zip(keys, column, strict=True)) for name, column in cells.items()}
            case "rows by key":
                return dict(zip(keys, rows, strict=True))
            case "columns and data":
                columns = _columns(rows, self.rows)
                data = [[row.get(name) for name in columns] for row in rows]
                return {**(self.document or {}), "columns": columns, "index": keys, "data": data}
        assert self.place is not None
        return {**(self.document or {}), self.place: rows}


def _columns(rows: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in (rows or before[:1]) for name in row))


def layout_of(document: Document, split: str | None) -> Layout | list[str] | None:
    """Recognise the layout of a document.

    Args:
        split: the split to read from a document with several.
    Returns:
        The layout; the split names if there are several and none was chosen; None if the document has no rows.
    """
    for find in (_columns_and_data, _columns_of_lists, _columns_by_row, _one_row, _rows_by_key):
        if (layout := find(document)) is not None:
            return layout
    lists = [name for name, value in document.items() if isinstance(value, list)]
    if not all(_are_rows(document[name]) for name in lists):
        return None
    if len(lists) == 1 and split in (None, lists[0], "train"):
        return Layout("wrapped", document[lists[0]], document=document, place=lists[0])
    if split in lists:
        return Layout("splits", document[split], document=document, place=split)
    return lists or None


def _are_objects(value: Sequence[Any]) -> bool:
    return all(isinstance(item, dict) for item in value)


def _are_rows(value: Sequence[Any]) -> bool:
    return _are_objects(value) and not (value and all(map(_is_message, value)))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and bool({"role", "from"} & value.keys())


def _columns_and_data(document: Document) -> Layout | None:
    """`to_json(orient="split")`."""
    columns, data = document.get("columns"), document.get("data")
    if not (isinstance(columns, list) and isinstance(data, list)):
        return None
    if not all(isinstance(name, str) for name in columns):
        return None
    if not all(isinstance(cells, list) and len(cells) == len(columns) for cells in data):
        return None
    rows = [dict(zip(columns, cells, strict=True)) for cells in data]
    index = document.get("index")
    keys = index if isinstance(index, list) and len(index) == len(rows) else range(len(rows))
    return Layout("columns and data", rows, keys, document)


def _columns_of_lists(document: Document) -> Layout | None:
    """`to_dict("list")`: one list per column."""
    lists = list(document.values())
    if len(lists) < 2 or not all(isinstance(value, list) for value in lists) or len(set(map(len, lists))) > 1:
        return None
    answers = [document[name] for name in ("chosen", "rejected") if name in document]
    if any(map(_are_objects, lists)) and (not answers or all(all(map(_is_message, value)) for value in lists)):
        return None  # splits, or one row whose parts are conversations
    return Layout("columns of lists", [dict(zip(document, cells, strict=True)) for cells in zip(*lists, strict=True)])


def _columns_by_row(document: Document) -> Layout | None:
    """pandas' default `to_json()`: one object per column, with row labels as keys."""
    columns = list(document.values())
    if len(columns) < 2 or not all(isinstance(column, dict) and column for column in columns):
        return None
    keys = list(columns[0])
    if any(list(column) != keys for column in columns) or any(map(_is_message, columns)):
        return None
    if not all(key.isdecimal() for key in keys) and "chosen" not in document:
        return None
    rows = [{name: document[name][key] for name in document} for key in keys]
    return Layout("columns by row", rows, keys)


def _one_row(document: Document) -> Layout | None:
    return Layout("one row", [document]) if "chosen" in document else None


def _rows_by_key(document: Document) -> Layout | None:
    """`to_json(orient="index")`, or rows with their own ids as keys."""
    rows = list(document.values())
    if not rows or not all(isinstance(row, dict) and len(row) > 1 for row in rows) or any(map(_is_message, rows)):
        return None
    return Layout("rows by key", rows, list(document))
