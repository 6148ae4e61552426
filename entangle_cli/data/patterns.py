"""Regular expressions of a checkpoint's configs, tried out before a library applies them to names of modules.

Python's `re` takes exponential time for some expressions and holds the interpreter meanwhile. A process of its own
can be stopped.
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
"""For all expressions and names; those in use take milliseconds."""

REPEATS = re.compile(r"[*+?{]")
"""Without one of these an expression takes no longer than its own length."""

FORMS = (r"{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", r"(?:{})(?=\.|$)")
"""In which PEFT and transformers use them."""

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
"""What is no expression the libraries refuse themselves."""


def refuse_slow_patterns(place: str, config: Any, names: Collection[str]) -> None:
    """Refuse a config with a regular expression that does not end in time for one of some names.

    Args:
        place: the file and the entry, for the message.
        config: JSON; every text in it may be an expression.
        names: of modules or weights.
    Raises:
        ModelError: an expression takes more than SECONDS.
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
            "names of modules, or an expression that ends",
            "name the modules in a list",
        ) from error


def _texts(config: Any) -> Iterator[str]:
    left = [config]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
