"""`--lora`: an adapter that does not exist yet, as one option."""

from __future__ import annotations

from typing import Annotated

import typer

from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LoraSettings

Lora = Annotated[
    str | None,
    typer.Option(
        metavar="r=8,alpha=16",
        help="A new LoRA adapter on MODEL: r, alpha, dropout, targets=q_proj+v_proj or all-linear, rslora=true, "
        "dora=true, modules_to_save=lm_head.",
    ),
]

EXAMPLE = "r=8,alpha=16,targets=q_proj+v_proj"
NAMES = {"targets", "modules_to_save"}
FLAGS = {"rslora", "dora"}
NUMBERS = {"r": 8.0, "alpha": 16.0, "dropout": 0.0}
"""Numbers of an adapter with their defaults."""


def lora_settings(text: str) -> LoraSettings:
    """An adapter such as `r=64,alpha=128,targets=q_proj+v_proj`.

    Raises:
        UsageError: another form, or a value that cannot be used.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        name, separator, value = part.strip().partition("=")
        if not (separator and value) or name in values or name not in {*NUMBERS, *NAMES, *FLAGS}:
            raise _unusable(text, part)
        values[name] = value
    numbers = {name: _number(text, values.get(name, str(default))) for name, default in NUMBERS.items()}
    if numbers["r"] < 1 or numbers["alpha"] <= 0 or not 0 <= numbers["dropout"] < 1:
        raise _unusable(text)
    if numbers["r"] % 1 or numbers["alpha"] % 1:
        raise _unusable(text)
    return LoraSettings(
        r=int(numbers["r"]),
        alpha=int(numbers["alpha"]),
        targets=_names(values.get("targets")),
        dropout=numbers["dropout"],
        rslora=_flag(text, values.get("rslora", "false")),
        dora=_flag(text, values.get("dora", "false")),
        modules_to_save=_names(values.get("modules_to_save")),
    )


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name for name in text.split("+") if name)


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise _unusable(text, value) from error


def _flag(text: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise _unusable(text, value)
    return value.lower() == "true"


def _unusable(text: str, part: str | None = None) -> UsageError:
    return UsageError(
        f"--lora {text}" + ("" if part is None else f": {part.strip() or 'nothing'}"),
        "r and alpha as whole numbers above 0, dropout from 0 to below 1, targets and modules_to_save joined by +, "
        "rslora and dora as true or false",
        f"write it like {EXAMPLE}",
    )
