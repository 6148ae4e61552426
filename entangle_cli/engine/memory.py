"""Bytes that a forward pass keeps for its backward pass. This memory grows with the tokens of a batch."""

from __future__ import annotations

from types import TracebackType

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class KeptBytes:
    """Counts the storages that autograd saves inside the context, except parameters and buffers.

    Args:
        model: the model whose parameters and buffers are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self._sizes: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._pack, lambda packed: packed)

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self._sizes.values())

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that is kept outside autograd. Each storage counts once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._sizes[storage.data_ptr()] = storage.nbytes()

    def _pack(self, tensor: Tensor) -> Tensor:
        self.add(tensor)
        # With its graph, a saved output would keep its own node alive forever.
        return tensor.detach()

    def __enter__(self) -> KeptBytes:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, traceback)
