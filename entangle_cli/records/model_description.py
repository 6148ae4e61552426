"""What a scan needs to know about its model, as data that another process can send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A loaded model in words and numbers."""

    name: str
    """The name that the user gave, for messages."""
    identity: Mapping[str, Any]
    """Name, and the SHA-256 of every file or the hub's commit; JSON-able."""
    reference_identity: Mapping[str, Any] | None
    """The same of the reference model; None without one."""
    parameters: str
    """The selection of parameters: `all`, `adapter`, or a regular expression on their names."""
    num_model_parameters: int
    """Elements of all parameters."""
    numel_by_rule: Mapping[str, int]
    """Elements of the selected parameters, by the engine's rule for them."""
    slow_parameters: Mapping[str, str]
    """Parameter name to the reason why it needs the slow exact method."""
    warnings: Mapping[str, str]
    """Warning code to message, about loading the checkpoint."""
    training_step: int | None
    """Training step in the name of a Trainer checkpoint; None for other names."""
    template_date: str | None
    """Date used by the chat template, as YYYY-MM-DD; None if it uses no date."""
    special_tokens: Mapping[str, str | None]
    """The tokenizer's EOS and BOS tokens, by the tokenizer's names for them."""
    context: int | None
    """The model's context length in tokens; None if its config does not state one."""
    position_limit: int | None
    """Number of learned position embeddings; None if positions are computed."""
    num_embeddings: int | None
    """Number of token embeddings; None if unknown."""
    device: str
    hardware: str
    """Name of the GPU, or the threads of the CPU."""
    versions: Mapping[str, str]
    """Versions of entangle and of the libraries that affect numbers and tokens."""
    batch_tokens: int
    """Tokens per batch, padding included, that are fast and fit into memory."""

    @property
    def num_parameters(self) -> int:
        """Elements of the selected parameters."""
        return sum(self.numel_by_rule.values())
