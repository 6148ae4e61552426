"""Tests the regular expressions in a checkpoint's configs before a library applies them to module names.

Python's `re` needs exponential time for some expressions and blocks the interpreter meanwhile. A separate process can
be stopped.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import Any

from entangle_cli.errors import ModelError

SECONDS = 10.0
"""Time limit for all expressions and names. Common expressions need milliseconds."""

REPEATS = re.compile(r"[*+?{]")
"""Characters for repetition. Expressions without one are always fast."""

FORMS = (r"{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", r"(?:{})(?=\.|$)")
"""Forms in which PEFT and transformers use the expressions."""

PROGRAM = """
import json, re, sys
patterns, forms, names = json.load(sys.stdin)
for pattern in patterns:
    for form in forms:
        try:
            compiled = re.compile(form.format(pattern))
        except (re.error, RecursionError, OverflowError):
            continue
        for name in names:
            compiled.match(name)
            compiled.fullmatch(name)
"""
"""Test program. It ignores invalid expressions, because the libraries refuse those."""


def refuse_slow_patterns(place: str, config: Any, names: Collection[str]) -> None:
    """Refuse a config with a regular expression that is too slow for one of the names.

    Args:
        place: file and entry, for the message.
        config: JSON. Every text in it may be an expression.
        names: names of modules or weights.
    Raises:
        ModelError: matching takes more than SECONDS.
    """
    patterns = sorted({text for text in _texts(config) if REPEATS.search(text)})
    if not patterns:
        return
    modules = sorted({*names, *(name.rpartition(".")[0] for name in names)})
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROGRAM],
            input=json.dumps([patterns, FORMS, modules]),
            text=True,
            timeout=SECONDS,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{place}: a regular expression takes more than {SECONDS:g} seconds: {patterns[0][:60]}",
            "module names, or a fast expression",
            "replace the expression with a list of module names",
        ) from error


def _texts(config: Any) -> Iterator[str]:
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += [*value, *value.values()]
        elif isinstance(value, list):
            pending += value
