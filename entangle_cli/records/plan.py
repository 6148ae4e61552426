"""What a scan will do, before it does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """What a scan recognised and will do, before it starts."""

    model: str
    data: str
    data_kind: str
    formats: tuple[str, ...]
    """How the first rows were recognised."""
    num_rows: int
    num_selected: int
    num_parameters: int
    """Parameter elements that count."""
    num_model_parameters: int
    numel_by_rule: Mapping[str, int]
    slow_parameters: Mapping[str, str]
    """Parameter name to why it takes the slow exact way."""
    checkpoint_warnings: Mapping[str, str]
    """Code to sentence: what a user should know about how the checkpoint was loaded."""
    device: str
    dtype: str
    batch_tokens: int
    max_length: int | None = None
    """Tokens of prompt and response together; None for no limit."""
    context: int | None = None
    """Tokens of the longest sequence that the model was made for; None where its config does not say."""
    num_processes: int = 1
    """That deal out the batches among them."""


@dataclass(frozen=True, slots=True)
class ScanEstimate:
    """What a scan will take, from two batches of its first window that were measured."""

    pair_seconds: float
    """Of a pair in the batch of median length."""
    total_seconds: float
    """Of all selected rows, if they are like the first ones."""
    weight_bytes: int
    peak_bytes: int | None
    """Largest size of the process or the device's memory in use, in the batch of the longest pairs; None if unknown."""
    longest_tokens: int
    """Tokens of the longest sequence seen."""
