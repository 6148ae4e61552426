"""The arguments of a training in a shell script: `accelerate launch dpo.py --beta 0.1`, `trl dpo --config dpo.yaml`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

METHODS = ("dpo", "cpo", "orpo", "kto", "simpo")
SCRIPT = re.compile(rf"(?:.*[/_-])?(?:run_)?({'|'.join(METHODS)})(?:_\w+)?(?:\.py)?")
PROCESSES = ("--num_processes", "--num-processes", "-np")
"""Of accelerate and mpirun: all processes."""
PROCESSES_PER_MACHINE = ("--nproc_per_node", "--nproc-per-node", "--num_gpus")
"""Of torchrun and deepspeed."""
MACHINES = ("--nnodes", "--num_nodes")


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """A command that starts a training with TRL's arguments."""

    method: str
    arguments: tuple[str, ...]
    """Words after the script."""
    num_processes: int
    """Processes that the launcher starts, as far as the command says."""


def find_launch_command(text: str) -> LaunchCommand | None:
    """The first command of a script that starts a preference training with TRL; None if there is none."""
    for words in _commands(text):
        for position, word in enumerate(words):
            match = SCRIPT.fullmatch(word)
            is_script = word.endswith(".py") or (position > 0 and words[position - 1].rpartition("/")[2] == "trl")
            if match and is_script:
                launcher = words[:position]
                # `trl dpo` takes the launcher's options among its own.
                places = [*launcher, *words[position:]] if not word.endswith(".py") else launcher
                per_machine = _number(places, PROCESSES_PER_MACHINE) * _number(places, MACHINES)
                num_processes = _number(places, PROCESSES) * per_machine
                return LaunchCommand(match[1], tuple(_without_launcher(words[position + 1 :])), num_processes)
    return None


def arguments_by_name(arguments: Sequence[str]) -> dict[str, Any]:
    """Arguments as argparse would take them: name to a text, a list of texts, or True for a name without a value."""
    values: dict[str, Any] = {}
    name = None
    for word in arguments:
        if word.startswith("--"):
            name, separator, value = word[2:].partition("=")
            name = name.replace("-", "_")
            values[name] = value if separator else True
        elif name is not None:
            before = values[name]
            values[name] = word if before is True else [*(before if isinstance(before, list) else [before]), word]
    return values


LAUNCHER_OPTIONS = ("--num_processes", "--num_machines", "--accelerate_config", "--main_process_port", "--gpu_ids")
"""Options of accelerate that `trl dpo` accepts among its own."""


def _without_launcher(arguments: Sequence[str]) -> list[str]:
    """The words that are TRL's own."""
    kept: list[str] = []
    skip = False
    for word in arguments:
        if skip:
            skip = False
            continue
        name, separator, _ = word.partition("=")
        if name in LAUNCHER_OPTIONS:
            skip = not separator
            continue
        kept.append(word)
    return kept


NUMBERED_REDIRECTION = re.compile(r"(?<=\s)[0-9]>(&[0-9-]|>?\s*\S+)")
"""Such as 2>&1 and 2> errors. shlex would take the number for a word."""
ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")


def _commands(text: str) -> list[list[str]]:
    """The commands of a script as words, with continued lines joined, and comments and redirections dropped.

    Variables that the script sets to plain texts have their values. Others stay as they are: nothing is run.
    """
    joined = re.sub(r"\\\r?\n", " ", text)
    commands = []
    variables: dict[str, str] = {}
    for line in joined.splitlines():
        for words in _split(line):
            values = [_expanded(word, variables) for word in words]
            assigned = [ASSIGNMENT.fullmatch(word) for word in values if word != "export"]
            if all(assigned):
                variables |= {match[1]: match[2] for match in assigned if match is not None}
            else:
                commands.append(values)
    return commands


def _split(line: str) -> Iterator[list[str]]:
    """The words of every command on a line."""
    lexer = shlex.shlex(NUMBERED_REDIRECTION.sub(" ", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    is_target = False
    try:
        for word in lexer:
            if set(word) <= set("();|&") or word == "\n":
                yield words
                words = []
            elif set(word) <= set("<>&"):
                is_target = True
            elif not is_target:
                words.append(word)
            else:
                is_target = False
    except ValueError:  # a quote that another line closes
        return
    yield words


def _expanded(word: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return variables.get(name, match[0] if match[3] is None else match[3])

    return VARIABLE.sub(value, word)


def _number(words: Sequence[str], names: Sequence[str]) -> int:
    for position, word in enumerate(words):
        name, separator, value = word.partition("=")
        if name in names:
            value = value if separator else (words[position + 1] if position + 1 < len(words) else "")
            if value.isdecimal():
                return max(int(value), 1)
    return 1
