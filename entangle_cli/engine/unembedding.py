"""The last linear layer of a model, with the scale and softcap of its logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from entangle_cli.engine.products import at_least_float32


@dataclass(frozen=True, slots=True)
class Unembedding:
    """The unembedding's weight and bias, with the scale and softcap of the logits."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    """Factor on the logits, applied first (Cohere, Granite)."""
    softcap: float | None = None
    """c in c tanh(logits / c), applied second (Gemma 2)."""

    def logits(self, hidden_ND: Tensor, columns: slice | Tensor) -> Tensor:
        """Logits of some vocabulary columns, [N, C], at least float32, with the model's own rounding."""
        bias = None if self.bias_V is None else self.bias_V[columns]
        logits_NC = at_least_float32(functional.linear(hidden_ND, self.weight_VD[columns], bias))
        if self.scale != 1.0:
            logits_NC = logits_NC * self.scale
        if self.softcap is not None:
            logits_NC = self.softcap * (logits_NC / self.softcap).tanh()
        return logits_NC

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the final logits with respect to the linear layer's output, computed from the final logits."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1.0 - (logits / self.softcap).square())
