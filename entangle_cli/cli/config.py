"""Options from elsewhere: command line > `ENTANGLE_*` > `entangle.toml` or `[tool.entangle]` > defaults.

A key at the top holds for every command that has the option; a table such as `[tool.entangle.gate]` for its command:

    [tool.entangle]
    max-length = 2048
    [tool.entangle.gate]
    fail-if = ["both_fall_rate > 0.1"]

A folder that is measured must not act: what runs code, unpickles or writes is taken from the command line alone, and a
file inside a folder that the command line names is not read.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import typer

from entangle_cli.cli.from_file import PARAMETER as FROM_FILE
from entangle_cli.cli.from_file import Taken, taken_from, tell_taken
from entangle_cli.cli.help import GroupedCommand
from entangle_cli.cli.tell import tell
from entangle_cli.errors import UsageError
from entangle_cli.records.data_words import parsed_data_word

PREFIX = "ENTANGLE_"

COMMAND_LINE_ONLY = frozenset(
    {
        "trust-remote-code",
        "pickled-weights",
        "debug",
        "dry-run",
        "output",
        "json",
        "npy",
        "write",
        "write-dropped",
    }
)
"""Options that run code, unpickle, hide what would be done, or name a file to write."""


class Option(NamedTuple):
    """An option of a command."""

    parameter: str
    """Its name in the command's function."""
    is_repeated: bool
    """Whether it may be given repeatedly."""


Options = Mapping[str, Mapping[str, Option]]
"""Command to its options, by their long names without dashes in front."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the environment and the nearest file say, for all commands."""

    defaults: Mapping[str, dict[str, Any]]
    """Command to parameter to value."""
    origins: Mapping[str, Mapping[str, str]]
    """Command to parameter to where the value comes from: a file's path, or a variable's name."""
    ignored: Path | None = None
    """A file that was not read: it lies inside a folder that the command line names."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the values of a command's options come from that are neither given nor defaults."""

    taken: Mapping[str, str] = field(default_factory=dict)
    """Option without dashes to a file's path or a variable's name."""
    overridden: Mapping[str, str] = field(default_factory=dict)
    """Likewise, of values that the command line replaced."""

    def of(self, option: str) -> str:
        """Where an option's value comes from, in words."""
        return self.taken.get(option, "the command line")


def read_configuration(
    options: Options, folder: Path | None, environment: Mapping[str, str], words: Sequence[str] = ()
) -> Configuration:
    """The options that the environment and the nearest file set.

    Args:
        folder: where the search for a file begins; it goes on upwards. None where there is no such folder any more.
        words: of the command line; a file inside a folder among them is not read.
    Raises:
        UsageError: a file that cannot be read, a key that no command has, or one for the command line alone.
    """
    values: dict[str, dict[str, Any]] = {command: {} for command in options}
    origins: dict[str, dict[str, str]] = {command: {} for command in options}
    named = [*words, *(value for name, value in environment.items() if name.startswith(PREFIX))]
    file, ignored = _nearest_file(folder, list(_folders(named)))
    if file is not None:
        for command, option, value in _entries(file, options):
            values[command][option.parameter] = value
            origins[command][option.parameter] = _shown(file)
    for command, known in options.items():
        for name, option in known.items():
            variable = PREFIX + name.replace("-", "_").upper()
            if (text := environment.get(variable)) is not None:
                _refuse_from_elsewhere(variable, name)
                values[command][option.parameter] = [text] if option.is_repeated else text
                origins[command][option.parameter] = variable
    return Configuration(values, origins, ignored)


def _entries(file: Path, options: Options) -> Iterator[tuple[str, Option, Any]]:
    """Command, option and value of each key of a file; those of a command's table come last."""
    settings = _settings_of(file)
    tables = {key: value for key, value in settings.items() if key in options and isinstance(value, Mapping)}
    all_names = [name for known in options.values() for name in known] + list(options)
    for key, value in settings.items():
        if key not in tables:
            commands = [command for command in options if _name(key) in options[command]]
            _refuse_unknown(file, key, commands, all_names)
            yield from ((command, options[command][_name(key)], value) for command in commands)
    for command, table in tables.items():
        for key, value in table.items():
            known = options[command]
            _refuse_unknown(file, f"{command}.{key}", [command] if _name(key) in known else [], list(known))
            yield command, known[_name(key)], value


def _name(key: str) -> str:
    return key.replace("_", "-")


def _folders(words: Sequence[str]) -> Iterator[Path]:
    """The folders among some words of a command line, also as values of options and as the start of a pattern."""
    for word in words:
        text = word.partition("=")[2] if word.startswith("--") else parsed_data_word(word).name
        place = os.path.expanduser(text.partition("*")[0].partition("?")[0].partition("[")[0])  # noqa: PTH111
        if place != text and place:
            place = os.path.dirname(place) or "."  # noqa: PTH120 -- of a pattern: where its files are
        if place and "\0" not in place and os.path.isdir(place):  # noqa: PTH112 -- Path.is_dir may raise
            yield Path(place).resolve()


def _nearest_file(folder: Path | None, inputs: Sequence[Path]) -> tuple[Path | None, Path | None]:
    """The nearest file that says anything, and the nearest one that is inside an input and was passed over.

    `entangle.toml` goes before `pyproject.toml`.
    """
    ignored: Path | None = None
    for place in () if folder is None else (folder, *folder.parents):
        is_inside = any(place.resolve().is_relative_to(each) for each in inputs)
        for name in ("entangle.toml", "pyproject.toml"):
            file = place / name
            if not file.is_file() or (not is_inside and name == "pyproject.toml" and not _settings_of(file)):
                continue
            if not is_inside:
                return file, ignored
            ignored = ignored or file
    return None, ignored


def _settings_of(file: Path) -> Mapping[str, Any]:
    """What a file says to us."""
    content = _read(file)
    if file.name == "entangle.toml":
        return content
    found = content.get("tool", {})
    found = found.get("entangle", {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def _read(file: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: {error}", "a TOML file", "repair the file, or run in another folder") from error


def _refuse_unknown(file: Path, key: str, commands: list[str], known: list[str]) -> None:
    name = _name(key.rpartition(".")[2])
    if commands:
        _refuse_from_elsewhere(f"{file}: {key}", name)
        return
    near = difflib.get_close_matches(name, known, n=1)
    raise UsageError(
        f"{file}: no option {key!r}",
        "options of the command line, without their dashes in front",
        f"did you mean {near[0]}?" if near else "see entangle COMMAND --help",
    )


def _refuse_from_elsewhere(where: str, name: str) -> None:
    if name in COMMAND_LINE_ONLY:
        raise UsageError(
            f"{where} is set outside the command line",
            "options that run code, unpickle or write files on the command line alone",
            f"leave it out there, and write --{name} in the command",
        )


def _shown(file: Path) -> str:
    """A file's path as a user would write it."""
    try:
        return os.path.relpath(file)
    except (OSError, ValueError):  # no such folder any more, or another drive
        return str(file)


class ConfiguredCommand(GroupedCommand):
    """A command that says on standard error which options were set outside its command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; what it does not give is taken from the file of `--from`, if there is one."""
        if any(one.name == FROM_FILE for one in self.params) and not ctx.resilient_parsing:
            values, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            given = {name for name, value in values.items() if value not in (None, ())}
            file = values[FROM_FILE] if FROM_FILE in given else (ctx.default_map or {}).get(FROM_FILE)
            if file is not None:
                taken = _taken(self, ctx, Path(str(file)), given, args)
                ctx.meta[FROM_FILE] = taken
                ctx.default_map = {**(ctx.default_map or {}), **taken.values}
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Say it, and run the command."""
        quiet = bool(ctx.params.get("quiet"))
        if isinstance(ctx.obj, Configuration):
            _tell_origins(ctx.obj, origins_of(ctx), ctx.meta.get(FROM_FILE), quiet=quiet)
        return super().invoke(ctx)


def _taken(command: Any, context: Any, file: Path, given: set[str], words: Sequence[str]) -> Taken:
    options = {str(one.name): next((word for word in one.opts if word.startswith("--")), "") for one in command.params}
    defaults = {str(one.name): one.default for one in command.params}
    return taken_from(file, str(context.info_name), options, defaults, given, words)


def origins_of(context: typer.Context) -> Origins:
    """Where the values of the options of a command that runs come from."""
    if not isinstance(context.obj, Configuration):
        return Origins()
    of_command = dict(context.obj.origins.get(str(context.info_name), {}))
    file: Taken | None = context.meta.get(FROM_FILE)
    if file is not None:
        of_command |= dict.fromkeys(file.values, _shown(file.file))
    taken: dict[str, str] = {}
    overridden: dict[str, str] = {}
    for parameter in context.command.params:
        where = of_command.get(str(parameter.name))
        if where is None or parameter.param_type_name != "option":
            continue
        name = next(word for word in parameter.opts if word.startswith("--")).removeprefix("--")
        source = context.get_parameter_source(str(parameter.name))
        (taken if source is not None and source.name == "DEFAULT_MAP" else overridden)[name] = where
    return Origins(taken, overridden)


def _tell_origins(configuration: Configuration, origins: Origins, file: Taken | None, *, quiet: bool) -> None:
    if configuration.ignored is not None:
        tell(f"{_shown(configuration.ignored)} is ignored: it lies inside a folder that the command line names")
    if quiet:
        return
    if file is not None:
        tell_taken(file)
    elsewhere = {name: where for name, where in origins.taken.items() if file is None or where != _shown(file.file)}
    if elsewhere:
        tell("options from elsewhere: " + ", ".join(f"{name} ({where})" for name, where in elsewhere.items()))
    if origins.overridden:
        words = ", ".join(f"{name} ({where})" for name, where in origins.overridden.items())
        tell(f"the command line takes precedence over {words}")
