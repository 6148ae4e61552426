"""The plan and the cost estimate of a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """The inputs that a scan recognised and the work that it will do."""

    model: str
    data: str
    data_kind: str
    formats: tuple[str, ...]
    """Formats recognised in the first rows."""
    num_rows: int
    num_selected: int
    num_parameters: int
    """Elements of the selected parameters."""
    num_model_parameters: int
    numel_by_rule: Mapping[str, int]
    slow_parameters: Mapping[str, str]
    """Parameter name to the reason why it needs the slow exact method."""
    checkpoint_warnings: Mapping[str, str]
    """Warning code to message, about loading the checkpoint."""
    device: str
    dtype: str
    batch_tokens: int
    max_length: int | None = None
    """Limit on tokens of prompt and response together; None for no limit."""
    context: int | None = None
    """The model's context length in tokens; None if its config does not state one."""
    num_workers: int = 1
    """Number of processes that measure."""
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Option of the command line to its values, of those that decide what is measured (`measuring_options`)."""


@dataclass(frozen=True, slots=True)
class ScanEstimate:
    """Time and memory that a scan needs, measured on two batches of its first window."""

    pair_seconds: float
    """Seconds per pair in the batch of median length."""
    total_seconds: float
    """Seconds for all selected rows, if they resemble the first ones."""
    weight_bytes: int
    peak_bytes: int | None
    """Peak memory of the process or device during the batch of the longest pairs; None if unknown."""
    longest_tokens: int
    """Tokens in the longest sequence seen."""
