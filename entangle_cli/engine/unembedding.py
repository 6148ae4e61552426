"""The last linear layer of a model, and what the model does to its output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from entangle_cli.engine.products import at_least_float32


@dataclass(frozen=True, slots=True)
class Unembedding:
    """The unembedding's weight and bias, with the scale and the cap on the logits."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    """Logits are multiplied by it first (Cohere, Granite)."""
    softcap: float | None = None
    """Then they are c tanh(logits / c) (Gemma 2)."""

    def logits(self, hidden_ND: Tensor, columns: slice | Tensor) -> Tensor:
        """Logits of some columns of the vocabulary, [N, C], rounded as the model rounds them, at least float32."""
        bias = None if self.bias_V is None else self.bias_V[columns]
        logits_NC = at_least_float32(functional.linear(hidden_ND, self.weight_VD[columns], bias))
        if self.scale != 1.0:
            logits_NC = logits_NC * self.scale
        if self.softcap is not None:
            logits_NC = self.softcap * (logits_NC / self.softcap).tanh()
        return logits_NC

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the finished logits with respect to the linear layer's output, at the finished logits."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1.0 - (logits / self.softcap).square())
