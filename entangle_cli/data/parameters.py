"""Which parameters of a checkpoint count."""

from __future__ import annotations

import re

from torch import nn

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.errors import UsageError


def default_parameters(checkpoint: Checkpoint) -> str:
    """Which parameters count where nobody says: an adapter's, of a plain checkpoint all."""
    return "adapter" if checkpoint.adapter_parameters else "all"


def select_parameters(checkpoint: Checkpoint, pattern: str) -> dict[str, nn.Parameter]:
    """The parameters that count: `all`, `adapter`, or those whose name a regular expression finds.

    Raises:
        UsageError: not a regular expression, one that finds nothing, no adapter, or weights that have no gradient.
    """
    named = dict(checkpoint.model.named_parameters())
    if pattern == "all" and (language := checkpoint.language_parameters) is not None:
        found = {name: parameter for name, parameter in named.items() if name in language}
    else:
        found = _selected(named, checkpoint.adapter_parameters, pattern)
    quantised = [name for name, parameter in found.items() if not parameter.is_floating_point()]
    if quantised:
        raise UsageError(
            f"--parameters {pattern}: {len(quantised)} are quantised, the first {quantised[0]}",
            "parameters that have gradients, such as an adapter's",
            "name an adapter folder as MODEL, or a checkpoint that is not quantised",
        )
    return found


def _selected(
    named: dict[str, nn.Parameter], adapter_parameters: frozenset[str], pattern: str
) -> dict[str, nn.Parameter]:
    if pattern == "all":
        return named
    if pattern == "adapter":
        if not adapter_parameters:
            raise UsageError(
                "--parameters adapter: the model is a whole checkpoint", "all, or a regular expression", "leave it out"
            )
        return {name: parameter for name, parameter in named.items() if name in adapter_parameters}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--parameters {pattern!r}: {error}", "all, or a regular expression", "correct the expression"
        ) from error
    found = {name: parameter for name, parameter in named.items() if expression.search(name)}
    if not found:
        raise UsageError(
            f"--parameters {pattern!r} finds none of {len(named)} parameters",
            f"an expression that finds names such as {next(iter(named))}",
            "correct the expression",
        )
    return found
