"""Checks the engine's cost model with timings: the faster route of a linear layer, and the cost of copies.

    python -m tests.benchmarks.routes

One thread, float32, the best of several repeats; half of each sequence is shared by the rows of a pair. `products`
and `once` name the constants that these figures support.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from entangle_cli.engine.products import InputGrams, gram_products, materialised_products, route_costs

LAYERS = [
    (64, 768, 2304),
    (256, 768, 768),
    (256, 768, 3072),
    (512, 768, 768),
    (512, 768, 2304),
    (512, 768, 3072),
    (512, 3072, 768),
    (512, 896, 4864),
    (1024, 768, 768),
    (1024, 768, 3072),
    (1024, 2048, 2048),
    (1024, 2048, 5632),
]
"""Tokens, inputs, outputs."""


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest time of several runs, after a warm-up run."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def route_line(num_tokens: int, num_inputs: int, num_outputs: int) -> str:
    """Milliseconds of both routes for one pair, and whether the engine would choose the faster one."""
    num_pairs, num_shared = max(1, 1024 // num_tokens), num_tokens // 2
    inputs = torch.randn(2 * num_pairs, num_tokens, num_inputs)
    inputs[num_pairs:, :num_shared] = inputs[:num_pairs, :num_shared]
    gradients = torch.randn(2 * num_pairs, num_tokens, num_outputs)
    gram = best_seconds(lambda: gram_products(InputGrams(inputs, num_shared), [gradients]), 4) / num_pairs
    materialised = best_seconds(lambda: materialised_products(inputs, gradients), 4) / num_pairs
    (takes_gram,) = route_costs(num_tokens, num_shared, num_inputs, [num_outputs]).on_gram_route()
    verdict = (
        "right"
        if takes_gram == (gram < materialised)
        else f"costs {max(gram, materialised) / min(gram, materialised):.2f}"
    )
    times = f"{1e3 * gram:8.1f}  {1e3 * materialised:12.1f}"
    taken = "gram" if takes_gram else "materialised"
    return f"{num_tokens:6} {num_inputs:6} {num_outputs:7}  {times}  {taken:12}  {verdict}"


def copy_line(num_inputs: int, num_outputs: int) -> str:
    """Cost of copying a float in flops of the layer's own product, for inputs and for outputs."""
    inputs, weight = torch.randn(2048, num_inputs), torch.randn(num_inputs, num_outputs)
    computed = torch.arange(2048)[torch.arange(2048) % 4 != 0]
    outputs, source = torch.randn(1536, num_outputs), torch.randint(0, 1536, (2048,))
    flops_a_second = 2 * 2048 * num_inputs * num_outputs / best_seconds(lambda: inputs @ weight, 10)
    copy_in = best_seconds(lambda: inputs.index_select(0, computed), 10) * flops_a_second / (1536 * num_inputs)
    copy_out = best_seconds(lambda: outputs.index_select(0, source), 10) * flops_a_second / (2048 * num_outputs)
    return f"{num_inputs:13} {num_outputs:7}  {copy_in:8.0f}  {copy_out:12.0f}  {flops_a_second / 1e9:.0f} Gflop/s"


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    print("tokens inputs outputs  gram, ms  materialised  takes         and that")
    for layer in LAYERS:
        print(route_line(*layer), flush=True)
    print("\n       inputs outputs  flops in  flops out a float copied")
    for num_inputs, num_outputs in ((768, 768), (768, 3072), (896, 4864), (2048, 5632)):
        print(copy_line(num_inputs, num_outputs), flush=True)


if __name__ == "__main__":
    main()
