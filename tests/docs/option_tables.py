"""Writes entangle_cli/docs/options.md from the commands themselves: `python -m tests.docs.option_tables`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from entangle_cli.cli.app import app

FILE = Path(__file__).resolve().parents[2] / "entangle_cli/docs/options.md"


def option_tables() -> str:
    """A table of options for each command, as Markdown."""
    parts = ["# Options\n\nEvery option of every command. This page is generated from the commands.\n"]
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        parts.append(
            f"\n## entangle {name}\n\n{(command.help or '').strip()}\n\n| option | what it does |\n|---|---|\n"
        )
        for parameter in command.params:
            words = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
            is_option = parameter.param_type_name == "option"
            label = words if is_option else f"`{parameter.name.upper()}`"
            text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
            parts.append(f"| {label} | {text} |\n")
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(option_tables(), encoding="utf-8")
