"""Selection of a checkpoint's parameters."""

from __future__ import annotations

import re

from torch import nn

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.errors import UsageError


def default_parameters(checkpoint: Checkpoint) -> str:
    """The default selection: `adapter` if the checkpoint has one, else `all`."""
    return "adapter" if checkpoint.adapter_parameters else "all"


def select_parameters(checkpoint: Checkpoint, pattern: str) -> dict[str, nn.Parameter]:
    """Select parameters: `all`, `adapter`, or all names that match a regular expression.

    Raises:
        UsageError: the expression is invalid or matches nothing, there is no adapter, or a parameter is quantised.
    """
    named = dict(checkpoint.model.named_parameters())
    if pattern == "all" and (language := checkpoint.language_parameters) is not None:
        selected = {name: parameter for name, parameter in named.items() if name in language}
    else:
        selected = _selected(named, checkpoint.adapter_parameters, pattern)
    quantised = [name for name, parameter in selected.items() if not parameter.is_floating_point()]
    if quantised:
        raise UsageError(
            f"--parameters {pattern}: {len(quantised)} of the parameters are quantised, the first {quantised[0]}",
            "parameters that have gradients, such as an adapter's",
            "use an adapter folder as MODEL, or a checkpoint that is not quantised",
        )
    return selected


def _selected(
    named: dict[str, nn.Parameter], adapter_parameters: frozenset[str], pattern: str
) -> dict[str, nn.Parameter]:
    if pattern == "all":
        return named
    if pattern == "adapter":
        if not adapter_parameters:
            raise UsageError(
                "--parameters adapter: the model is a whole checkpoint",
                "all, or a regular expression",
                "omit --parameters",
            )
        return {name: parameter for name, parameter in named.items() if name in adapter_parameters}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--parameters {pattern!r}: {error}",
            "all, or a regular expression",
            "use a valid expression, for example --parameters 'mlp|attn'",
        ) from error
    matching = {name: parameter for name, parameter in named.items() if expression.search(name)}
    if not matching:
        raise UsageError(
            f"--parameters {pattern!r} matches none of {len(named)} parameters",
            f"an expression that matches names such as {next(iter(named))}",
            "use part of such a name",
        )
    return matching
