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

    def logits(self, hidden_ND: Tensor, columns: slice) -> Tensor:
        """Logits of some vocabulary columns, [N, C], with the model's own rounding: in its dtype or in float32."""
        bias_C = None if self.bias_V is None else self.bias_V[columns]
        return self._scaled(functional.linear(hidden_ND, self.weight_VD[columns], bias_C))

    def logits_at(self, hidden_PRD: Tensor, ids_PC: Tensor) -> Tensor:
        """Logits of the ids of each row, [P, R, C], as `logits`."""
        logits_PRC = hidden_PRD @ self.weight_VD[ids_PC].mT
        return self._scaled(logits_PRC if self.bias_V is None else logits_PRC + self.bias_V[ids_PC].unsqueeze(1))

    def _scaled(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = at_least_float32(logits) * self.scale
        if self.softcap is not None:
            logits = self.softcap * (at_least_float32(logits) / self.softcap).tanh()
        return logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the final logits with respect to the linear layer's output, computed from the final logits."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1.0 - (logits / self.softcap).square())
