"""The estimate counts what it claims to count."""

from __future__ import annotations

import torch

from entangle_cli.engine.costs import flops_per_byte
from tests.benchmarks.roofline import Card, WorkCounter, num_bytes

CARD = Card()


def test_the_engine_chooses_its_routes_for_the_same_card() -> None:
    for dtype, flops in ((torch.bfloat16, CARD.bfloat16_flops), (torch.float32, CARD.float32_flops)):
        assert flops_per_byte(dtype) == round(flops / CARD.bytes_per_second)


def work_of(function: object, *tensors: torch.Tensor) -> WorkCounter:
    assert callable(function)
    with WorkCounter(CARD) as counter:
        function(*tensors)
    return counter


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_a_large_product_takes_the_time_of_its_flops() -> None:
    """Whole tiles in whole waves: 132 tiles of 128 x 256."""
    work = work_of(torch.mm, meta(128 * 12, 1024), meta(1024, 256 * 11)).work
    assert work.launches == 1
    assert work.kernel_seconds == 2 * (128 * 12) * 1024 * (256 * 11) / CARD.bfloat16_flops


def test_an_elementwise_operation_takes_the_time_of_its_bytes() -> None:
    work = work_of(torch.add, meta(2**28), meta(2**28)).work
    assert work.kernel_seconds == 3 * 2 * 2**28 / CARD.bytes_per_second


def test_a_small_kernel_takes_the_shortest_time_and_the_host_a_launch() -> None:
    work = work_of(torch.relu, meta(1)).work
    assert (work.launches, work.kernel_seconds, work.seconds(CARD)) == (1, CARD.shortest_kernel, CARD.launch)


def test_views_launch_nothing_and_expanded_memory_counts_once() -> None:
    assert work_of(lambda values: values.view(2, 8).T[0], meta(16)).work.launches == 0
    assert num_bytes(meta(4, 1).expand(4, 1000)) == 8


def test_products_of_half_precision_with_a_wide_result_run_at_the_rate_of_their_operands() -> None:
    narrow = work_of(torch.bmm, meta(4, 512, 512), meta(4, 512, 512)).work
    wide = work_of(lambda a, b: torch.bmm(a, b, out_dtype=torch.float32), meta(4, 512, 512), meta(4, 512, 512)).work
    slow = work_of(torch.bmm, meta(4, 512, 512, dtype=torch.float32), meta(4, 512, 512, dtype=torch.float32)).work
    assert narrow.kernel_seconds <= wide.kernel_seconds < slow.kernel_seconds
