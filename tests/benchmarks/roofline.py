"""Estimated time of one batch on an H100 that is not here: the engine and its lower bound, on meta tensors.

    python -m tests.benchmarks.roofline [--shapes llama-8b:512 llama-8b:2048 ...] [--json] [--operations 10]

The batch runs on the meta device: every operation has its shapes, and nothing is computed. The time of a kernel is the
longest of its flops, its bytes and the shortest kernel. The time of a batch is that of its kernels or of its launches,
whichever is longer. The assumptions are printed. No card has confirmed them. Attention counts as flash attention: one
kernel forward, three backward.

`synchronisations` counts the host's reads of device values: the engine's own read after a batch, and transformers'
question whether a batch is packed. Any other read raises on the meta device.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from entangle_cli.engine import head_sweep
from entangle_cli.engine.coverage import Plan
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.host_copy import HostCopy
from entangle_cli.engine.model import prepared
from entangle_cli.records.measurement import TokenizedPair
from tests.benchmarks.engine_speed import SHAPES, build_pairs, floor
from tests.meta_device import counted_mask_checks, meta_model

BATCHES = {
    ("llama-8b", 512): 4,
    ("llama-8b", 2048): 1,
    ("llama-1b", 512): 16,
    ("qwen2-0.5b", 512): 16,
    ("gpt2-124m", 512): 16,
    ("llama-70b", 512): 2,
}
"""Shape and tokens of a sequence to pairs of a batch."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a GPU does in a second. Defaults: an H100 with dense matrices, at what good kernels reach."""

    multiprocessors: int = 132
    bfloat16_flops: float = 650e12
    float32_flops: float = 50e12
    attention_forward_flops: float = 400e12
    attention_backward_flops: float = 300e12
    bytes_per_second: float = 2.9e12
    shortest_kernel: float = 2e-6
    """Seconds."""
    launch: float = 5e-6
    """Seconds of the host per kernel."""

    def matrix_product(self, batch: int, rows: int, columns: int, inner: int, dtype: torch.dtype) -> float:
        """Seconds of a batched product: whole waves of the best of three tiles, the inner dimension split if long."""
        rate = self.bfloat16_flops if dtype.itemsize == 2 else self.float32_flops
        best = math.inf
        for height, width, quality in ((128, 256, 1.0), (128, 128, 0.9), (64, 64, 0.55)):
            tiles = batch * math.ceil(rows / height) * math.ceil(columns / width)
            waves = math.ceil(tiles / self.multiprocessors)
            tile_flops = 2.0 * height * width * inner
            split = min(8, max(1, self.multiprocessors // tiles)) if inner >= 2048 else 1
            best = min(best, waves * self.multiprocessors * tile_flops / (rate * quality) / split)
        return best


WITHOUT_KERNEL = {
    "_unsafe_view",
    "detach",
    "alias",
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "lift_fresh",
}
GATHERS = {"index", "index_select", "embedding", "gather"}
SCATTERS = {"index_put_", "scatter_", "scatter_add_"}


@dataclass(slots=True)
class Work:
    """What a batch asked of the card."""

    launches: int = 0
    kernel_seconds: float = 0.0
    by_operation: Counter[str] = field(default_factory=Counter)
    """Operation with the dtype of its result to seconds."""
    launches_by_operation: Counter[str] = field(default_factory=Counter)

    def add(self, operation: str, seconds: float, launches: int = 1) -> None:
        """Count an operation."""
        self.launches += launches
        self.kernel_seconds += seconds
        self.by_operation[operation] += seconds
        self.launches_by_operation[operation] += launches

    def seconds(self, card: Card) -> float:
        """Estimated seconds of the batch: of its kernels or its launches, whichever take longer."""
        return max(self.kernel_seconds, self.launches * card.launch)


class WorkCounter(TorchDispatchMode):
    """Counts the kernels of every operation inside the context."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        self.work = Work()

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], arguments: tuple[Any, ...] = (), keywords: Any = None
    ) -> Any:
        """Run an operation and count it."""
        keywords = keywords or {}
        result = operation(*arguments, **keywords)
        name = operation.name().removeprefix("aten::").split(".")[0]
        returns = operation._schema.returns
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
        if not is_view and name not in WITHOUT_KERNEL:
            inputs, outputs = list(tensors((arguments, list(keywords.values())))), list(tensors(result))
            work = max(self._traffic(name, inputs, outputs), self._product(name, arguments))
            dtype = str(outputs[0].dtype).removeprefix("torch.") if outputs else "none"
            self.work.add(f"{name} {dtype}", max(work, self.card.shortest_kernel))
        return result

    def _traffic(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
        """Seconds for the bytes that an operation reads and writes."""
        moved = sum(map(num_bytes, inputs)) + sum(map(num_bytes, outputs))
        if name in GATHERS:
            moved = 2 * sum(map(num_bytes, outputs))
        elif name in SCATTERS:
            moved = 3 * num_bytes(inputs[-1])
        return moved / self.card.bytes_per_second

    def _product(self, name: str, arguments: Sequence[Any]) -> float:
        """Seconds for the flops of a matrix product; 0 for other operations."""
        kind = name.removesuffix("_")
        if kind not in ("mm", "addmm", "bmm", "baddbmm"):
            return 0.0
        left, right = arguments[:2] if kind in ("mm", "bmm") else arguments[1:3]
        batch = left.shape[0] if left.dim() == 3 else 1
        rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
        if not batch * rows * inner * columns:
            return 0.0
        return self.card.matrix_product(batch, rows, columns, inner, left.dtype)


def tensors(tree: Any) -> Iterator[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors(item)


def num_bytes(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor. Expanded dimensions do not count."""
    extents = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(extents) * tensor.element_size()


def flash_attention(counter: WorkCounter) -> Callable[..., Tensor]:
    """A stand-in for causal attention that counts a fused kernel. On meta tensors, torch would count an unfused one."""
    card, work = counter.card, counter.work

    class Flash(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            context.save_for_backward(query, key, value)
            batch, heads, num_tokens, width = query.shape
            context.flops = 2.0 * batch * heads * num_tokens**2 * width
            traffic = sum(map(num_bytes, (query, key, value, query))) / card.bytes_per_second
            work.add("attention forward", max(context.flops / card.attention_forward_flops, traffic))
            return torch.empty_like(query)

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
            inputs = context.saved_tensors
            traffic = 2 * sum(map(num_bytes, (*inputs, *gradients))) / card.bytes_per_second
            seconds = max(2.5 * context.flops / card.attention_backward_flops, traffic)
            work.add("attention backward", seconds, launches=3)
            return tuple(map(torch.empty_like, inputs))

    def attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        result: Tensor = Flash.apply(query, key, value)  # type: ignore[no-untyped-call]
        return result

    return attention


@contextmanager
def counted(card: Card) -> Iterator[tuple[WorkCounter, list[None]]]:
    """Count the work inside the context, and the host's reads of values, which are zeros there."""
    counter = WorkCounter(card)
    with pytest.MonkeyPatch.context() as patch, counted_mask_checks() as reads:
        read = HostCopy.read

        def counted_read(copy: HostCopy) -> dict[str, Tensor]:
            reads.append(None)
            return read(copy)

        patch.setattr(HostCopy, "read", counted_read)
        patch.setattr("torch.nn.functional.scaled_dot_product_attention", flash_attention(counter))
        patch.setitem(head_sweep.CHUNK_BYTES, "meta", head_sweep.CHUNK_BYTES["cuda"])
        with counter:
            yield counter, reads


def measure(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> None:
    """One batch of the engine. Dense models need no probe: every parameter has a fast rule."""
    engine = Engine(model, dict(model.named_parameters()))
    engine.plan = Plan({}, {}, {})
    with prepared(model):
        engine.measure(pairs)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A line of the output."""

    shape: str
    tokens: int
    """Of each sequence; half of them are a prompt that both answers share."""
    pairs: int
    launches: int
    floor_launches: int
    synchronisations: int
    seconds: float
    floor_seconds: float
    ratio: float
    """Estimated seconds over the floor's."""
    pairs_per_second: float


def estimate(shape: str, num_tokens: int, num_pairs: int, card: Card) -> tuple[Estimate, Work]:
    """The estimate for a batch in bfloat16, and the engine's work in it."""
    model = meta_model(SHAPES[shape](), "sdpa")
    pairs = build_pairs(num_tokens, num_pairs, model.config.vocab_size)
    with counted(card) as (lower, _):
        floor(model, pairs)
    with counted(card) as (ours, reads):
        measure(model, pairs)
    seconds, floor_seconds = ours.work.seconds(card), lower.work.seconds(card)
    sizes = (shape, num_tokens, num_pairs, ours.work.launches, lower.work.launches, len(reads))
    return Estimate(*sizes, seconds, floor_seconds, seconds / floor_seconds, num_pairs / seconds), ours.work


def parse_arguments() -> argparse.Namespace:
    """What to estimate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [f"{shape}:{num_tokens}" for shape, num_tokens in BATCHES]
    parser.add_argument("--shapes", nargs="+", default=known, choices=known)
    parser.add_argument("--json", action="store_true", help="one JSON line per shape, after one with the assumptions")
    parser.add_argument("--operations", type=int, default=0, help="list the engine's slowest operations")
    return parser.parse_args()


def main() -> None:
    """Print a line per shape."""
    arguments = parse_arguments()
    transformers.logging.set_verbosity_error()
    card = Card()
    print(json.dumps({"assumptions": asdict(card)}) if arguments.json else f"assumed: {asdict(card)}")
    for named in arguments.shapes:
        shape, num_tokens = named.split(":")
        found, work = estimate(shape, int(num_tokens), BATCHES[shape, int(num_tokens)], card)
        if arguments.json:
            print(json.dumps(asdict(found)), flush=True)
            continue
        times = f"{1e3 * found.seconds:.0f} ms, floor {1e3 * found.floor_seconds:.0f} ms, {found.ratio:.2f} floors"
        times += f", {found.pairs_per_second:.3g} pairs/s"
        launches = f"{found.launches:,} launches, floor {found.floor_launches:,}"
        print(f"{named} x {found.pairs}: {times}; {launches}; {found.synchronisations} synchronisations", flush=True)
        for operation, seconds in work.by_operation.most_common(arguments.operations):
            print(f"    {operation:32} {work.launches_by_operation[operation]:7,} x  {1e3 * seconds:8.1f} ms")


if __name__ == "__main__":
    main()
