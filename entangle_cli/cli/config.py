"""Options from elsewhere: command line > `ENTANGLE_*` > `entangle.toml` or `[tool.entangle]` > defaults.

A key at the top holds for every command that has the option; a table such as `[tool.entangle.gate]` for its command:

    [tool.entangle]
    max-length = 2048
    [tool.entangle.gate]
    fail-if = ["both_fall_rate > 0.1"]
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

from entangle_cli.errors import UsageError

PREFIX = "ENTANGLE_"


class Option(NamedTuple):
    """An option of a command."""

    parameter: str
    """Its name in the command's function."""
    is_repeated: bool
    """Whether it may be given repeatedly."""


Options = Mapping[str, Mapping[str, Option]]
"""Command to its options, by their long names without dashes in front."""


def configured_defaults(options: Options, folder: Path, environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The defaults of every command that differ from its own.

    Args:
        folder: where the search for a file begins; it goes on upwards.
    Returns:
        Command to parameter to value.
    Raises:
        UsageError: a file that cannot be read, or a key that no command has.
    """
    defaults: dict[str, dict[str, Any]] = {command: {} for command in options}
    file, settings = _settings(folder)
    tables = {key: value for key, value in settings.items() if key in options and isinstance(value, Mapping)}
    for key, value in settings.items():
        if key not in tables:
            commands = [command for command in options if _name(key) in options[command]]
            _refuse_unknown(file, key, commands, [name for known in options.values() for name in known] + list(options))
            for command in commands:
                defaults[command][options[command][_name(key)].parameter] = value
    for command, table in tables.items():
        for key, value in table.items():
            known = options[command]
            _refuse_unknown(file, f"{command}.{key}", [command] if _name(key) in known else [], list(known))
            defaults[command][known[_name(key)].parameter] = value
    for command, known in options.items():
        for name, option in known.items():
            if (text := environment.get(PREFIX + name.replace("-", "_").upper())) is not None:
                defaults[command][option.parameter] = [text] if option.is_repeated else text
    return defaults


def _name(key: str) -> str:
    return key.replace("_", "-")


def _settings(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The nearest file that says anything, and what it says; `entangle.toml` goes before `pyproject.toml`."""
    for place in (folder, *folder.parents):
        if (file := place / "entangle.toml").is_file():
            return file, _read(file)
        if (file := place / "pyproject.toml").is_file():
            tool = _read(file).get("tool", {})
            if "entangle" in tool:
                return file, tool["entangle"]
    return folder, {}


def _read(file: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {error}", "a TOML file", "correct it") from error


def _refuse_unknown(file: Path, key: str, commands: list[str], known: list[str]) -> None:
    if commands:
        return
    near = difflib.get_close_matches(_name(key.rpartition(".")[2]), known, n=1)
    raise UsageError(
        f"{file}: no option {key!r}",
        "options of the command line, without their dashes in front",
        f"did you mean {near[0]}?" if near else "see entangle COMMAND --help",
    )
