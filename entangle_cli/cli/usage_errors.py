"""What typer says of a command line, in the three lines of every message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import typer

from entangle_cli.errors import UsageError

TyperUsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The class of all errors of the command line's form; typer does not export it."""

BOUNDS = {
    "greater than or equal to": "or more",
    "less than or equal to": "or less",
}


def usage_error(error: Any, words: Sequence[str]) -> UsageError:
    """An error of the command line's form as ours.

    Args:
        error: a `TyperUsageError`.
        words: of the command line.
    """
    context = error.ctx
    path = "entangle" if context is None else context.command_path
    if (option := getattr(error, "option_name", None)) is not None:
        return _of_option(path, option, context)
    if (parameter := getattr(error, "param", None)) is not None:
        return _of_parameter(path, parameter, error, words)
    message = str(error.format_message()).rstrip(".")
    commands = getattr(getattr(context, "command", None), "commands", {})
    if commands and (named := re.search(r"No such command '([^']*)'", message)):
        near = difflib.get_close_matches(named[1], commands, n=1)
        remedy = f"did you mean entangle {near[0]}?" if near else "see entangle --help"
        return UsageError(f"no command {named[1]!r}", f"one of {', '.join(commands)}", remedy)
    if extra := re.search(r"unexpected extra argument\S* \((.*)\)", message):
        return UsageError(f"{path}: {extra[1]}: more arguments than it takes", _form(context), "leave them out")
    return UsageError(f"{path}: {message[:1].lower()}{message[1:]}", "options and arguments that it has", _help(path))


def _form(context: Any) -> str:
    """A command with its arguments."""
    arguments = [each for each in context.command.params if each.param_type_name == "argument"]
    return " ".join([context.command_path, *(str(each.metavar or each.name) for each in arguments)])


def _help(path: str) -> str:
    return f"see {path} --help"


def _of_option(path: str, option: str, context: Any) -> UsageError:
    known = [name for parameter in context.command.params for name in parameter.opts] if context is not None else []
    if context is None or option in known:
        return UsageError(f"{option} without a value", "a value behind it", f"write {option} VALUE, or leave it out")
    near = difflib.get_close_matches(option, known, n=1)
    return UsageError(
        f"{path}: no option {option}", "an option that it has", f"did you mean {near[0]}?" if near else _help(path)
    )


def _of_parameter(path: str, parameter: Any, error: Any, words: Sequence[str]) -> UsageError:
    if parameter.param_type_name == "argument":
        name = str(parameter.metavar or parameter.name)
        return UsageError(f"{path}: {name} is missing", _form(error.ctx), f"add {name}; {_help(path)}")
    option = parameter.opts[0]
    if not error.message:
        return UsageError(f"{path}: {option} is missing", f"{option} with a value", f"add {option} VALUE")
    value = _value_of(option, words)
    message = str(error.message).removeprefix("Value error, ").rstrip(".")
    if choices := re.fullmatch(r"'(.*)' is not one of (.*)", message):
        known = re.findall(r"'([^']*)'", choices[2])
        near = difflib.get_close_matches(choices[1], known, n=1)
        remedy = f"did you mean {option} {near[0]}?" if near else f"write for example {option} {known[0]}"
        return UsageError(f"{option} {choices[1]}", f"one of {', '.join(known)}", remedy)
    expected = _expected(message)
    return UsageError(f"{option} {value}".rstrip(), expected, f"give {option} {expected}")


def _expected(message: str) -> str:
    """What should stand in place of a value."""
    for words, ours in BOUNDS.items():
        if bound := re.search(rf"{words} (\S+)", message):
            return f"{bound[1]} {ours}"
    if "integer" in message:
        return "a whole number"
    return "a number" if "number" in message else message[:1].lower() + message[1:]


def _value_of(option: str, words: Sequence[str]) -> str:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""
