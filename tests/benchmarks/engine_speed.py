"""Seconds and peak memory of the engine beside its floor and its alternatives, in one run.

    python -m tests.benchmarks.engine_speed [--shapes gpt2-124m wide-2048] [--tokens 64 256 512] [--repeats 5]

Random weights, random tokens, half of each sequence is a prompt that both responses share. Time is CPU seconds of one
thread on an otherwise idle machine, the median of repeats taken in turn; memory is each contestant's peak
resident size in a process of its own during one batch, above what it held before the batch.

Contestants, all on the same pairs:
    floor       forward + activation backward of one batch, logits at response positions only
    entangle    this engine
    flattened   a forward and a full backward a response, gradients concatenated, dot products: the paper's script
    training    one DPO step's work: policy forward and backward with weight gradients, reference forward
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from entangle_cli.engine.engine import Engine
from entangle_cli.records import TokenizedPair, TokenizedResponse

SHAPES: dict[str, Callable[[], GPT2Config | LlamaConfig]] = {
    "gpt2-124m": lambda: GPT2Config(),
    "wide-2048": lambda: LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=3,
        num_attention_heads=16,
        num_key_value_heads=16,
    ),
}

BATCH_TOKENS = 2048
CONTESTANTS = ("floor", "entangle", "flattened", "training")


def build_model(shape: str) -> PreTrainedModel:
    """A seeded random model of a shape, in float32."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(SHAPES[shape](), attn_implementation="sdpa").eval()


def build_pairs(num_tokens: int, num_pairs: int, vocabulary: int) -> list[TokenizedPair]:
    """Random pairs of sequences of `num_tokens`, the first half shared."""
    generator = torch.Generator().manual_seed(1)
    half = num_tokens // 2

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, vocabulary, (count,), generator=generator).tolist())

    pairs = []
    for _ in range(num_pairs):
        prompt = draw(half)
        responses = [TokenizedResponse(prompt + draw(num_tokens - half), half) for _ in range(2)]
        pairs.append(TokenizedPair(*responses))
    return pairs


def summed_log_prob(model: PreTrainedModel, rows: Sequence[TokenizedResponse]) -> torch.Tensor:
    """Sum of all rows' log-probs; all rows have one length and one first scored position."""
    ids = torch.tensor([row.ids for row in rows])
    first = rows[0].first_scored
    keep = torch.arange(first - 1, ids.shape[1] - 1)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
    return logits.log_softmax(-1).gather(-1, ids[:, first:, None]).sum()


def floor(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> None:
    """Forward and activation backward."""
    model.requires_grad_(False)
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    summed_log_prob(model, rows).backward()
    handle.remove()


def entangle(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> None:
    """This engine, its plan made beforehand."""
    ENGINES[id(model)].measure(pairs)


ENGINES: dict[int, Engine] = {}


def flattened(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> None:
    """The paper's way, without its bugs: two flat gradients a pair."""
    model.requires_grad_(True)
    for pair in pairs:
        vectors = []
        for response in (pair.chosen, pair.rejected):
            model.zero_grad(set_to_none=True)
            summed_log_prob(model, [response]).backward()
            vectors.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        torch.stack([vectors[0] @ vectors[0], vectors[1] @ vectors[1], vectors[0] @ vectors[1]]).tolist()
    model.zero_grad(set_to_none=True)


def training(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> None:
    """Policy forward and backward with weight gradients, and the reference's forward (the same weights)."""
    model.requires_grad_(True)
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    with torch.no_grad():
        summed_log_prob(model, rows)
    summed_log_prob(model, rows).backward()
    model.zero_grad(set_to_none=True)


@contextmanager
def prepared(model: PreTrainedModel, contestant: str) -> Iterator[None]:
    """What a contestant does once for a whole data set, and its end."""
    if contestant != "entangle":
        yield
        return
    model.requires_grad_(False)
    with Engine(model, dict(model.named_parameters())) as engine:
        ENGINES[id(model)] = engine
        yield


def run(model: PreTrainedModel, pairs: Sequence[TokenizedPair], contestant: str) -> None:
    """One batch."""
    {"floor": floor, "entangle": entangle, "flattened": flattened, "training": training}[contestant](model, pairs)


def seconds(shape: str, num_tokens: int, num_pairs: int, repeats: int) -> dict[str, float]:
    """Median CPU seconds a pair of each contestant, taken in turn."""
    model = build_model(shape)
    pairs = build_pairs(num_tokens, num_pairs, model.config.vocab_size)
    times: dict[str, list[float]] = {contestant: [] for contestant in CONTESTANTS}
    with prepared(model, "entangle"):
        for repeat in range(repeats + 1):
            for contestant in CONTESTANTS:
                model.requires_grad_(False)
                start = time.process_time()
                run(model, pairs, contestant)
                if repeat:
                    times[contestant].append((time.process_time() - start) / num_pairs)
    return {contestant: statistics.median(values) for contestant, values in times.items()}


def peak_megabytes(shape: str, num_tokens: int, num_pairs: int, contestant: str) -> float:
    """Peak resident size of a contestant above the loaded model, from a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.engine_speed", "--peak", contestant, "--shapes", shape]
    command += ["--tokens", str(num_tokens), "--pairs", str(num_pairs)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_peak(shape: str, num_tokens: int, num_pairs: int, contestant: str) -> None:
    """Child process of `peak_megabytes`."""
    model = build_model(shape)
    pairs = build_pairs(num_tokens, num_pairs, model.config.vocab_size)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), use_cache=False)
    with prepared(model, contestant):
        # Linux: 5 resets the peak to the present size (proc(5), clear_refs).
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_kibibytes("VmRSS")
        run(model, pairs, contestant)
        print((_status_kibibytes("VmHWM") - before) / 1024)


def _status_kibibytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[64, 256, 512])
    parser.add_argument("--pairs", type=int, help="pairs in the batch; default fills the token budget")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if args.peak:
        report_peak(args.shapes[0], args.tokens[0], args.pairs, args.peak)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread used;", end=" ")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}")
    print("shape      tokens pairs  contestant  CPU s/pair  over floor  peak MiB in a batch")
    for shape in args.shapes:
        for num_tokens in args.tokens:
            num_pairs = args.pairs or max(1, BATCH_TOKENS // (2 * num_tokens))
            medians = seconds(shape, num_tokens, num_pairs, args.repeats)
            for contestant in CONTESTANTS:
                peak = "" if args.no_memory else f"{peak_megabytes(shape, num_tokens, num_pairs, contestant):8.0f}"
                ratio = medians[contestant] / medians["floor"]
                print(
                    f"{shape:10} {num_tokens:6} {num_pairs:5}  {contestant:10}"
                    f"  {medians[contestant]:10.4f}  {ratio:10.3f}  {peak}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
