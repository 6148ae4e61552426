"""Calculated, not measured: operations of the engine per pair, and pairs per hour at a sustained rate.

python -m tests.benchmarks.costs [--tokens 512] [--teraflops 350]

The operations of a pair of two sequences of T tokens, of which R are scored (a multiply and an add are two):

    4 N_body 2T                     forward and activation backward of the layers
    12 T^2 d layers                 attention of two sequences, causal: 2 T^2 d forward, 4 T^2 d backward
    8 V d R                         head: logits, their gradient, and the products over the vocabulary
    sum over linear layers of min(6 T^2 (d_in + d_out), 4 T d_in d_out + 6 d_in d_out)     the cheaper route
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama-like model."""

    name: str
    width: int
    layers: int
    feed_forward: int
    key_values: int
    """Width of keys and of values."""
    vocabulary: int
    is_tied: bool = False
    """Whether embedding and head are one table."""

    @property
    def linear_layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a block's linear layers."""
        d, f, kv = self.width, self.feed_forward, self.key_values
        return [(d, d), (d, kv), (d, kv), (d, d), (d, f), (d, f), (f, d)]

    @property
    def body(self) -> int:
        """Parameters of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_layers)

    def operations(self, tokens: int) -> float:
        """Floating-point operations of a pair, half of each sequence scored."""
        scored = tokens  # half of each of the two
        routes = sum(
            min(6 * tokens**2 * (inputs + outputs), (4 * tokens + 6) * inputs * outputs)
            for inputs, outputs in self.linear_layers
        )
        return (
            8 * self.body * tokens
            + 12 * tokens**2 * self.width * self.layers
            + 8 * self.vocabulary * self.width * scored
            + routes * self.layers
        )


SHAPES = (
    Shape("1B (Llama 3.2)", 2048, 16, 8192, 512, 128_256, is_tied=True),
    Shape("8B (Llama 3.1)", 4096, 32, 14_336, 1024, 128_256),
    Shape("70B (Llama 3.1)", 8192, 80, 28_672, 1024, 128_256),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--teraflops", type=float, default=350.0)
    arguments = parser.parse_args()
    print(f"{arguments.tokens} tokens a sequence, half of them scored; {arguments.teraflops:g} TFLOP/s sustained")
    for shape in SHAPES:
        operations = shape.operations(arguments.tokens)
        rate = arguments.teraflops * 1e12 / operations
        tables = 1 if shape.is_tied else 2
        weights = 2 * (shape.body + tables * shape.vocabulary * shape.width) / 1e9
        print(
            f"{shape.name}: {operations / 1e12:.1f} TFLOP a pair, {rate:.3g} pairs/s, {3600 * rate:,.0f} an hour, "
            f"{weights:.1f} GB of bfloat16 weights"
        )


if __name__ == "__main__":
    main()
