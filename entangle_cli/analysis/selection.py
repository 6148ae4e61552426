"""Selects the rows that a filter keeps: by conditions on fields, and by the lowest or highest share of a field."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from entangle_cli.analysis.comparisons import OPERATORS
from entangle_cli.analysis.statistics import Booleans, Column, column_of, numbers
from entangle_cli.errors import UsageError
from entangle_cli.records.pair import Kind, Movement, Status, field_names

TEXT_FIELDS = field_names(Kind.TEXT)
FLAG_FIELDS = field_names(Kind.FLAG)
NUMBER_FIELDS = field_names(Kind.COUNT, Kind.NUMBER)
EXAMPLE = '"movement == both_fall"'

_CONDITION = re.compile(r"\s*(?P<field>\w+)\s*(?P<operator>==|!=|<=|>=|<|>)\s*(?P<value>.+?)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a field. It is false for a pair without a value."""

    text: str
    """The condition as the user wrote it."""
    field: str
    operator: str
    """A key of `OPERATORS`."""
    value: float | str | bool


@dataclass(frozen=True, slots=True)
class Extreme:
    """The share of the measured pairs with the lowest or highest values of a field."""

    field: str
    share: float
    """Above 0, at most 1."""
    lowest: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows that a filter keeps."""

    drop: Sequence[Condition] = ()
    keep: Sequence[Condition] = ()
    extreme: Extreme | None = None
    drop_uncertain: bool = False
    drop_unmeasured: bool = False

    @property
    def keeps_only_measured(self) -> bool:
        """Whether the filter keeps only measured pairs, because it selects by measured values."""
        return self.drop_unmeasured or bool(self.keep) or self.extreme is not None


def parse_condition(text: str) -> Condition:
    """Parse a condition such as `movement == both_fall` or `cosine > 0.9`.

    Raises:
        UsageError: the text does not have this form, the field is unknown, or the field cannot have this value.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"condition {text!r}",
            f"FIELD OPERATOR VALUE, the operator one of {', '.join(OPERATORS)}",
            f"write it like {EXAMPLE}",
        )
    field, sign = match["field"], match["operator"]
    value = match["value"].strip("\"'")
    if field in TEXT_FIELDS:
        _check_text(text, field, sign, value)
        return Condition(text, field, sign, value)
    if field in FLAG_FIELDS:
        if value not in ("true", "false") or sign not in ("==", "!="):
            raise UsageError(
                f"condition {text!r}", f"{field} == true or {field} == false", f"write for example '{field} == true'"
            )
        return Condition(text, field, sign, value == "true")
    _check_number_field(text, field)
    return Condition(text, field, sign, _number(text, value))


def parse_extreme(field: str, share: float, *, lowest: bool) -> Extreme:
    """The lowest or highest share of a field.

    Raises:
        UsageError: the field is unknown or not a number, or the share is not above 0 and at most 1.
    """
    _check_number_field(f"--by {field}", field)
    if not 0.0 < share <= 1.0:
        raise UsageError(f"a share of {share:g} to keep", "a number above 0 and at most 1", "write one half as 0.5")
    return Extreme(field, share, lowest)


def _check_text(text: str, field: str, sign: str, value: str) -> None:
    if sign not in ("==", "!="):
        raise UsageError(f"condition {text!r}", f"{field} with == or !=", f"use == or !=; {sign} compares numbers only")
    known = {"movement": [kind.value for kind in Movement], "status": [kind.value for kind in Status]}.get(field)
    if known is not None and value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        raise UsageError(
            f"condition {text!r}: {field} is never {value!r}",
            f"one of {', '.join(known)}",
            f"did you mean {near[0]}?" if near else "choose one of these",
        )


def _check_number_field(text: str, field: str) -> None:
    if field in NUMBER_FIELDS:
        return
    known = [*TEXT_FIELDS, *FLAG_FIELDS, *NUMBER_FIELDS]
    near = difflib.get_close_matches(field, known, n=1)
    raise UsageError(
        f"{text}: {field} is not a field" + (" with numbers" if field in (*TEXT_FIELDS, *FLAG_FIELDS) else ""),
        f"one of {', '.join(known)}",
        f"did you mean {near[0]}?" if near else "choose one of these",
    )


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"condition {text!r}: {value!r}", "a finite number", "write it like 'cosine > 0.9'")
    return number


def selected(selection: Selection, columns: Mapping[str, Column]) -> Booleans:
    """Whether each row of a run is kept, [rows].

    A selection that only drops rows keeps unmeasured pairs, because no condition applies to them. The lowest or highest
    share is taken from the measured pairs that meet the conditions. Of equal values, the earlier row comes first.

    Args:
        columns: field name of `PairRecord` to column.
    """
    measured = columns["status"] == Status.OK.value
    kept: Booleans = measured.copy() if selection.keeps_only_measured else np.ones(len(measured), dtype=bool)
    for condition in selection.drop:
        kept &= ~is_true(condition, columns)
    for condition in selection.keep:
        kept &= is_true(condition, columns)
    if selection.drop_uncertain:
        kept &= ~np.equal(column_of(columns, "uncertain"), True).astype(bool)
    if selection.extreme is not None:
        kept &= _is_extreme(selection.extreme, columns, kept)
    return kept


def is_true(condition: Condition, columns: Mapping[str, Column]) -> Booleans:
    """Whether a condition is true, [rows]; false if the field is null."""
    if condition.field in TEXT_FIELDS:
        values = column_of(columns, condition.field)
        has_value = np.array([value is not None for value in values], dtype=bool)
    else:
        values = numbers(columns, condition.field)
        has_value = ~np.isnan(values)
    result: Booleans = np.asarray(OPERATORS[condition.operator](values, condition.value), dtype=bool) & has_value
    return result


def _is_extreme(extreme: Extreme, columns: Mapping[str, Column], kept: Booleans) -> Booleans:
    values = numbers(columns, extreme.field)
    candidates = np.flatnonzero(kept & ~np.isnan(values))
    order = np.argsort(values[candidates] if extreme.lowest else -values[candidates], kind="stable")
    chosen = candidates[order[: math.ceil(extreme.share * len(candidates))]]
    is_extreme = np.zeros(len(values), dtype=bool)
    is_extreme[chosen] = True
    return is_extreme
