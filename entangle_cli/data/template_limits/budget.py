"""What a chat template may still make while it is rendered, and how much its values take of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Collection, ItemsView, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from typing import Any

from jinja2.utils import Namespace

SECONDS = 30.0
"""Wall time that one conversation may take. Templates in use take milliseconds."""

WORKING_BYTES = 16
"""Bytes that a template may make in all, pieces and copies included, for each character of the longest text."""

SMALLEST_BUDGET = 2**24
"""Bytes; a message, its keys and its pieces take more than its text."""


class TemplateTooLarge(Exception):
    """A template makes more text than it may."""


class TemplateTooSlow(Exception):
    """A template does not end in time."""


@dataclass(slots=True)
class Budget:
    """What is left to the rendering that is under way."""

    max_characters: int
    seconds: float
    bytes_left: int
    deadline: float

    def spend(self, num_bytes: int) -> None:
        """Pay for something that was made, or will be.

        Raises:
            TemplateTooLarge: there is not so much left.
            TemplateTooSlow: the time is over.
        """
        if num_bytes > self.bytes_left:
            raise TemplateTooLarge(too_long(self.max_characters))
        self.bytes_left -= num_bytes
        if time.monotonic() > self.deadline:
            raise TemplateTooSlow(f"the chat template takes more than {self.seconds:g} seconds")


def too_long(max_characters: int) -> str:
    """The sentence for a template that makes too much text."""
    return f"the chat template makes more text than {max_characters:,} characters; --max-row-bytes raises the limit"


class Running(threading.local):
    """The budget of the rendering that this thread is at; None where templates have none."""

    budget: Budget | None = None


running = Running()


def spend(num_bytes: int) -> None:
    """Pay out of the budget of the rendering that is under way, if it has one.

    Raises:
        TemplateTooLarge, TemplateTooSlow: see `Budget.spend`.
    """
    if running.budget is not None:
        running.budget.spend(num_bytes)


def paid(value: Any) -> Any:
    """A value that was just made, its parts aside."""
    if isinstance(value, str | bytes | list | tuple | dict | int):
        spend(sys.getsizeof(value))
    return value


def paid_with_parts(value: Any) -> Any:
    """A value with all that it holds, as often as it holds it: so long is its text, and a comparison of it."""
    if isinstance(value, str):
        return paid(value)
    left = [value]
    while left:
        part = left.pop()
        spend(sys.getsizeof(part, 64))
        left.extend(parts_of(part))
    return value


def parts_of(value: Any) -> Collection[Any]:
    """What a value of a template holds; nothing for a text or a number."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, Namespace):
        attributes: Any = object.__getattribute__(value, "_Namespace__attrs")
        return [attributes]
    if isinstance(value, list | tuple | set | frozenset | KeysView | ValuesView):
        return value
    return [part for item in value for part in item] if isinstance(value, ItemsView) else ()
