"""The token Gram matrix of a pair against one whole-model gradient per token: seconds and memory, one thread.

    python -m tests.benchmarks.token_grams [--tokens 64] [--prompt 64] [--repeats 3]

The plain way is one forward and backward a token, every gradient kept in float32, and the Gram of them all.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from entangle_cli.engine.per_response import response_log_prob
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse
from tests.engine.pairs import random_pair, whole_gram


def plain_gram(model: torch.nn.Module, pair: TokenizedPair) -> torch.Tensor:
    rows = []
    for response in (pair.chosen, pair.rejected):
        for place in range(response.first_scored, len(response.ids)):
            log_prob = response_log_prob(model, TokenizedResponse(response.ids[: place + 1], place))
            gradients = torch.autograd.grad(log_prob, list(model.parameters()))
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.tensor([[torch.dot(left, right) for right in rows] for left in rows])


def one_way(way: str, tokens: int, prompt: int) -> None:
    """One measurement in a separate process: seconds and peak memory beyond the weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT2Config()).eval()
    pair = random_pair(50_257, prompt=prompt, chosen=tokens, rejected=tokens, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    if way == "plain":
        gram = plain_gram(model, pair)
    else:
        gram, _ = whole_gram(model, dict(model.named_parameters()), pair, 2 * tokens * (tokens + prompt))
    seconds = time.process_time() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{seconds} {peak} {float(gram[:tokens, tokens:].sum())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8, help="of each answer; the plain way holds 0.5 GB for each")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=["plain", "entangle"])
    options = parser.parse_args()
    if options.way is not None:
        one_way(options.way, options.tokens, options.prompt)
        return
    print(
        f"GPT-2 124M, float32, one thread, torch {torch.__version__}: "
        f"two answers of {options.tokens} tokens, prompt of {options.prompt}"
    )
    words = ["--tokens", str(options.tokens), "--prompt", str(options.prompt)]
    for way in ("entangle", "plain"):
        found = []
        for _ in range(options.repeats):
            command = [sys.executable, "-m", "tests.benchmarks.token_grams", *words, "--way", way]
            found.append([float(number) for number in subprocess.check_output(command, text=True).split()])
        seconds, peak, inner = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"{way}: {seconds:.1f} CPU s, {peak:,.0f} MiB, inner product {inner:.6g}")


if __name__ == "__main__":
    main()
