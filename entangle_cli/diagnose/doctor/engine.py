"""The engine's own check: its products of a padded batch against autograd, on this device and with this model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.data.parameters import default_parameters, select_parameters
from entangle_cli.diagnose.scan.budget import free_bytes, within_memory
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.per_response import measure_responses
from entangle_cli.records.finding import Finding, finding
from entangle_cli.records.measurement import TokenizedPair

ENGINE_PAIRS = 2
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.03}
"""Differences that two ways of rounding may have."""
GRADIENTS = 3
"""Copies of the measured weights that must fit: the gradients of both answers, and room to compute with them."""


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """The engine beside autograd."""

    num_pairs: int
    """Pairs that were compared; 0 if none could be."""
    reason: str | None
    """Why none could be compared; None otherwise."""
    cosine: float | None = None
    """Largest difference of a cosine, absolute."""
    norm: float | None = None
    """Largest difference of a gradient's norm, relative."""


def check_engine(checkpoint: Checkpoint, pairs: Sequence[TokenizedPair]) -> EngineCheck:
    """Measure the shortest pairs in one padded batch by the engine, and one answer at a time by autograd.

    Autograd gives the gradient of every weight whole. This is the definition that the engine's products must meet.
    """
    usable = [pair for pair in pairs if pair.chosen.num_scored and pair.rejected.num_scored]
    shortest = sorted(usable, key=lambda pair: len(pair.chosen.ids) + len(pair.rejected.ids))[:ENGINE_PAIRS]
    if not shortest:
        return EngineCheck(0, "no usable pair")
    parameters = select_parameters(checkpoint, default_parameters(checkpoint))
    needed = GRADIENTS * sum(parameter.nbytes for parameter in parameters.values())
    free = free_bytes(checkpoint.model.device)
    if free is not None and needed > free:
        return EngineCheck(0, f"autograd needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free")
    found = within_memory(lambda: _compared(checkpoint.model, parameters, shortest))
    return found or EngineCheck(0, "memory ran out")


def _compared(model: nn.Module, parameters: Mapping[str, nn.Parameter], pairs: Sequence[TokenizedPair]) -> EngineCheck:
    with Engine(model, parameters) as engine:
        measured = engine.measure(pairs)
        device = next(iter(parameters.values())).device
        truth = measure_responses(model, pairs, parameters, device, dict.fromkeys(parameters, "all")).products["all"]
    cosines, norms = [0.0], [0.0]
    for pair, (chosen, rejected, inner) in zip(measured, truth.T.tolist(), strict=True):
        scale = math.sqrt(chosen * rejected)
        ours = math.sqrt(pair.chosen_squared_norm * pair.rejected_squared_norm)
        if scale and ours:
            cosines.append(abs(pair.inner_product / ours - inner / scale))
        for squared, expected in ((pair.chosen_squared_norm, chosen), (pair.rejected_squared_norm, rejected)):
            norms.append(abs(math.sqrt(squared) / math.sqrt(expected) - 1) if expected else math.sqrt(squared))
    return EngineCheck(len(pairs), None, max(cosines), max(norms))


def engine_findings(check: EngineCheck, dtype: torch.dtype) -> Iterator[Finding]:
    """Whether the engine and autograd disagree beyond the rounding of a dtype."""
    if check.cosine is None or check.norm is None:
        return
    if not max(check.cosine, check.norm) <= TOLERANCE.get(dtype, 0.03):
        yield finding(
            "D-ENGINE",
            f"entangle and autograd differ on {check.num_pairs} pairs: cosine by {check.cosine:.2g}, "
            f"norms by {check.norm:.2g}",
            "run doctor again with --dtype float64; if they still differ, do not use scans of this model and report it",
        )
