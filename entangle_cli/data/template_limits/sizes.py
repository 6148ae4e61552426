"""How much longer than what they are given jinja2's filters and Python's methods can make a text, before they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

from entangle_cli.data.template_limits.budget import TemplateTooLarge, paid_with_parts, parts_of

LARGEST_WIDTH = 100_000
"""Largest number of columns, digits or items that a template may ask for, as the sandbox's largest range."""

LARGEST_INTEGER_BITS = 1_000_000


def _filled(value: Any, *numbers: Any, **named: Any) -> int:
    """Columns or items that a width asks for."""
    del value  # no width of it
    return sum(_bounded_width(number) for number in (*numbers, *named.values()))


def _bounded_width(number: Any) -> int:
    if not isinstance(number, int):
        return 0
    _refuse_above(LARGEST_WIDTH, abs(number))
    return abs(number)


def _listed(values: Any) -> int:
    """Single characters and numbers, which did not exist before."""
    return CHARACTER_BYTES * len(values) if isinstance(values, str | range) else 0


CHARACTER_BYTES = 80


def _replaced(text: Any, old: Any = "", new: Any = "", *_: Any, **named: Any) -> int:
    old, new = named.get("old", old), named.get("new", new)
    return str(text).count(str(old)) * len(str(new))


def _joined_filter(values: Any, d: Any = "", *_: Any, **__: Any) -> int:
    return len(values) * len(str(d)) if isinstance(values, Sized) else 0


def _joined_method(between: Any, values: Any = (), *_: Any) -> int:
    return len(values) * len(between) if isinstance(values, Sized) else 0


def _indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    length = len(width) if isinstance(width, str) else _bounded_width(width)
    return (str(text).count("\n") + 1) * length


def _tabs(text: Any, *width: Any, **named: Any) -> int:
    return int(len(text) * max(8, _filled(text, *width, **named)))


def _translated(text: Any, table: Any = (), *_: Any) -> int:
    values = table.values() if isinstance(table, Mapping) else ()
    return len(text) * max((len(value) for value in values if isinstance(value, str)), default=1)


def _wrapped(text: Any, *others: Any, **named: Any) -> int:
    """A line break of one's own after every character, at most."""
    breaks = [value for value in (*others, *named.values()) if isinstance(value, str)]
    return len(str(text)) * max(map(len, breaks), default=1)


def _linked(text: Any, *others: Any, **named: Any) -> int:
    """A link for every dot, colon and at sign, at most."""
    longest: int = max((len(value) for value in (*others, *named.values()) if isinstance(value, str)), default=0)
    return sum(str(text).count(sign) for sign in ".:@") * longest


def _as_json(value: Any, *others: Any, **named: Any) -> int:
    """Indentation and separators for every part; the parts are paid for already."""
    width = sum(_bounded_width(number) for number in (*others, named.get("indent")))
    length = width * DEPTH + sum(len(str(each)) for each in named.get("separators") or ())
    return length * sum(1 for _ in _all_parts(value)) if length else 0


DEPTH = 16
"""Levels that a JSON text is counted as if all of its lines were indented by."""


def _all_parts(value: Any) -> Iterator[Any]:
    left = [value]
    while left:
        part = left.pop()
        yield part
        left.extend(parts_of(part))


def _formatted(text: Any, *values: Any, **named: Any) -> int:
    """Bytes that `%` makes at most: every place may take the longest value."""
    form = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    if WIDE_FORMAT.search(form):
        raise TemplateTooLarge(f"the chat template asks for a width above {LARGEST_WIDTH:,}")
    given = [*values, *named.values()]
    for value in given:
        paid_with_parts(value)
    return form.count("%") * sum(len(str(value)) for value in given)


WIDE_FORMAT = re.compile(r"%(\([^)]*\))?[-+ #0-9.]*(\d{6}|\*)")


def operation_size(operator: str, left: Any, right: Any) -> int:
    """Bytes that an operator makes at most, beyond its operands.

    Raises:
        TemplateTooLarge: a whole number of too many digits, or a width out of proportion.
    """
    if operator == "%" and isinstance(left, str | bytes):
        return _formatted(left, right)
    if operator not in ("*", "**"):
        return 0
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * abs(right)
        _refuse_above(LARGEST_INTEGER_BITS, bits)
        return 0
    times, value = (left, right) if isinstance(left, int) else (right, left)
    if isinstance(times, int) and isinstance(value, str | bytes | list | tuple):
        return max(0, times) * len(value) * (1 if isinstance(value, str | bytes) else POINTER_BYTES)
    return 0


POINTER_BYTES = 8


def refuse_wide(specification: str) -> None:
    """Refuse a format specification with a width of many digits.

    Raises:
        TemplateTooLarge: there is one.
    """
    if re.search(r"\d{6}", specification):
        raise TemplateTooLarge(f"the chat template asks for a width above {LARGEST_WIDTH:,}")


def _refuse_above(limit: int, found: int) -> None:
    if found > limit:
        raise TemplateTooLarge(f"the chat template asks for {found:,} where {limit:,} is the limit")


FILTER_SIZES: Mapping[str, Callable[..., int]] = {
    "list": _listed,
    "batch": _filled,
    "slice": _filled,
    "center": _filled,
    "round": _filled,
    "indent": _indented,
    "wordwrap": _wrapped,
    "replace": _replaced,
    "join": _joined_filter,
    "format": _formatted,
    "urlize": _linked,
    "tojson": _as_json,
}
"""Bytes that a filter adds at most to what it is given."""

METHOD_SIZES: Mapping[str, Callable[..., int]] = {
    "center": _filled,
    "ljust": _filled,
    "rjust": _filled,
    "zfill": _filled,
    "to_bytes": _filled,
    "expandtabs": _tabs,
    "replace": _replaced,
    "join": _joined_method,
    "translate": _translated,
}
"""The same for methods of texts, bytes and whole numbers."""
