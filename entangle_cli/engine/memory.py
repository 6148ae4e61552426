"""What a forward pass keeps for its backward, in bytes: the memory that grows with the tokens of a batch."""

from __future__ import annotations

from types import TracebackType

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class KeptBytes:
    """Counts, while its context lasts, the storages that autograd saves; weights and buffers aside.

    Args:
        model: whose parameters and buffers do not count.
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
        """Count the storage of a tensor that is kept by other means; a storage counts once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._sizes[storage.data_ptr()] = storage.nbytes()

    def _pack(self, tensor: Tensor) -> Tensor:
        self.add(tensor)
        # A node that kept its own output with its graph would keep itself for ever.
        return tensor.detach()

    def __enter__(self) -> KeptBytes:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, traceback)
