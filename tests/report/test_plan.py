"""The plan of a scan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from entangle_cli.records.plan import ScanPlan
from entangle_cli.report.plan import FLOAT32_ON_A_GPU, plan_lines

PLAN = ScanPlan(
    model="policy",
    data="pairs.jsonl",
    data_kind="file",
    formats=("prompt, chosen, rejected",),
    num_rows=3,
    num_selected=3,
    num_parameters=10,
    num_model_parameters=10,
    numel_by_rule={"linear": 10},
    slow_parameters={},
    device="cpu",
    dtype="float32",
    checkpoint_warnings={},
    batch_tokens=2048,
    max_length=None,
    context=None,
    num_workers=1,
)


@pytest.mark.parametrize(
    ("device", "dtype", "is_told"),
    [("cuda", "float32", True), ("cuda:1", "float32", True), ("cuda", "bfloat16", False), ("cpu", "float32", False)],
)
def test_the_price_of_float32_on_a_gpu_is_told(device: str, dtype: str, is_told: bool) -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(plan_lines(replace(PLAN, device=device, dtype=dtype)))
    assert (FLOAT32_ON_A_GPU in captured.get()) is is_told
