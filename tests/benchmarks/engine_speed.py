"""Seconds, peak memory and error of the engine, its lower bound and its alternatives, in one run.

    python -m tests.benchmarks.engine_speed [--shapes gpt2-124m wide-2048] [--tokens 64 256 512] [--repeats 5]

Random weights, random tokens, half of each sequence is a prompt that both responses share. Time is CPU seconds of one
thread on an otherwise idle machine (on CUDA: seconds of wall time, synchronised), the median of repeats taken in
turn after one that does not count. Memory is each contestant's peak during one batch above what was there before it,
in a process of its own: resident size, on CUDA allocated bytes. Error is that of the products of one pair at the
shortest length against float64: the largest of |A|, |B| relative to themselves and of P relative to sqrt(A B).

Contestants, all on the same pairs:
    floor       forward + activation backward of one batch, logits at response positions only
    entangle    this engine
    flattened   a forward and a full backward a response, gradients concatenated, dot products: the paper's script
    training    one DPO step's work: policy forward and backward with weight gradients, reference forward
    torch_func  per-sample gradients by vmap, a pair at a time
    dattri      dattri-llm, its hooks on one batch (not a dependency: `pip install --no-deps dattri-llm`)
    bergson     its exact gradients of the body's linear layers alone, so a lower bound (not a dependency either)
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
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config

from entangle_cli.engine.engine import Engine
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse
from tests.benchmarks import peers
from tests.oracle import reference

SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2-124m": lambda: GPT2Config(),
    "qwen2-0.5b": lambda: Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "llama-1b": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    ),
    "llama-8b": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
    "llama-70b": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    ),
    "wide-2048": lambda: LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=3,
        num_attention_heads=16,
        num_key_value_heads=16,
    ),
}

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


@dataclass(frozen=True, slots=True)
class Place:
    """Device and dtype of the contestants."""

    device: str
    dtype: torch.dtype

    def clock(self) -> float:
        """CPU seconds of this process, or seconds of wall time once the device is done."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def build_model(shape: str, place: Place) -> PreTrainedModel:
    """A seeded random model of a shape."""
    torch.manual_seed(0)
    with torch.device(place.device):
        model = AutoModelForCausalLM.from_config(SHAPES[shape](), attn_implementation="sdpa", dtype=place.dtype)
    return model.eval()


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
    ids = torch.tensor([row.ids for row in rows], device=model.device)
    first = rows[0].first_scored
    keep = torch.arange(first - 1, ids.shape[1] - 1, device=model.device)
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


def entangle(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """This engine, with its plan made in advance."""
    measured = ENGINES[id(model)].measure(pairs)
    rows = [(pair.chosen_squared_norm, pair.rejected_squared_norm, pair.inner_product) for pair in measured]
    return torch.tensor(rows, dtype=torch.float64).T


ENGINES: dict[int, Engine] = {}


def flattened(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """The method of the paper, without its bugs: two flat gradients per pair."""
    model.requires_grad_(True)
    columns = []
    for pair in pairs:
        vectors = []
        for response in (pair.chosen, pair.rejected):
            model.zero_grad(set_to_none=True)
            summed_log_prob(model, [response]).backward()
            vectors.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        columns.append(torch.stack([vectors[0] @ vectors[0], vectors[1] @ vectors[1], vectors[0] @ vectors[1]]))
    model.zero_grad(set_to_none=True)
    return torch.stack(columns, dim=1).double().cpu()


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
    """Setup of a contestant once per data set, and its cleanup."""
    if contestant != "entangle":
        yield
        return
    model.requires_grad_(False)
    with Engine(model, dict(model.named_parameters())) as engine:
        ENGINES[id(model)] = engine
        yield


CONTESTANTS: dict[str, Callable[[PreTrainedModel, Sequence[TokenizedPair]], Tensor | None]] = {
    "floor": floor,
    "entangle": entangle,
    "flattened": flattened,
    "training": training,
    "torch_func": peers.torch_func,
    "dattri": peers.dattri,
    "bergson": peers.bergson,
}


def run(model: PreTrainedModel, pairs: Sequence[TokenizedPair], contestant: str) -> Tensor | None:
    """One batch; products [3, pairs] from those that compute them."""
    model.requires_grad_(False)
    return CONTESTANTS[contestant](model, pairs)


def seconds(
    shape: str, place: Place, num_tokens: int, num_pairs: int, contestants: Sequence[str], repeats: int
) -> dict[str, float]:
    """Median seconds per pair of every contestant, measured in turn."""
    model = build_model(shape, place)
    pairs = build_pairs(num_tokens, num_pairs, model.config.vocab_size)
    times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    with prepared(model, "entangle"):
        for repeat in range(repeats + 1):
            for contestant in contestants:
                start = place.clock()
                run(model, pairs, contestant)
                if repeat:
                    times[contestant].append((place.clock() - start) / num_pairs)
    return {contestant: statistics.median(values) for contestant, values in times.items()}


def errors(shape: str, place: Place, num_tokens: int, contestants: Sequence[str]) -> dict[str, float]:
    """Largest error of each contestant's products for one pair, against float64 autograd of the same weights."""
    model = build_model(shape, place)
    pairs = build_pairs(num_tokens, 1, model.config.vocab_size)
    found = {}
    with prepared(model, "entangle"):
        for contestant in contestants:
            products = run(model, pairs, contestant)
            if products is not None:
                found[contestant] = products[:, 0].cpu()
    model.requires_grad_(True)
    wide = model.to("cpu", torch.float64)
    truth = reference(wide, *[(side.ids, side.first_scored) for side in (pairs[0].chosen, pairs[0].rejected)])
    norms = (truth.chosen_squared_norm, truth.rejected_squared_norm)
    scale = torch.tensor([*norms, (norms[0] * norms[1]) ** 0.5], dtype=torch.float64)
    expected = torch.tensor([*norms, truth.inner_product], dtype=torch.float64)
    return {contestant: float(((products - expected).abs() / scale).max()) for contestant, products in found.items()}


def peak_mebibytes(shape: str, place: Place, num_tokens: int, num_pairs: int, contestant: str) -> float:
    """Peak memory of a contestant above the loaded model, from a separate process."""
    command = [sys.executable, "-m", "tests.benchmarks.engine_speed", "--peak", contestant, "--shapes", shape]
    command += ["--tokens", str(num_tokens), "--pairs", str(num_pairs)]
    command += ["--device", place.device, "--dtype", str(place.dtype).removeprefix("torch.")]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_peak(shape: str, place: Place, num_tokens: int, num_pairs: int, contestant: str) -> None:
    """Child process of `peak_mebibytes`."""
    model = build_model(shape, place)
    pairs = build_pairs(num_tokens, num_pairs, model.config.vocab_size)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 4, dtype=torch.long, device=place.device), use_cache=False)
    if contestant in peers.PACKAGES:
        peers.is_available(contestant)  # imports it before the measurement
    with prepared(model, contestant):
        if place.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(model, pairs, contestant)
            print((torch.cuda.max_memory_allocated() - before) / 2**20)
            return
        # Linux: 5 resets the peak to the present size (proc(5), clear_refs).
        Path("/proc/self/clear_refs").write_text("5")
        resident = _status_kibibytes("VmRSS")
        run(model, pairs, contestant)
        print((_status_kibibytes("VmHWM") - resident) / 1024)


def _status_kibibytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def parse_arguments() -> argparse.Namespace:
    """What to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["gpt2-124m", "wide-2048"], choices=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[64, 256, 512])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--pairs", type=int, help="pairs in the batch; default fills the token budget")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-errors", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def available(contestants: Sequence[str]) -> list[str]:
    """Contestants that can run here, always with the floor. Prints the reason for the others."""
    reasons = {name: peers.is_available(name) for name in contestants if name in peers.PACKAGES}
    for name, reason in reasons.items():
        if reason is not None:
            print(f"without {name}: {reason}")
    rest = [name for name in contestants if reasons.get(name) is None and name != "floor"]
    return ["floor", *rest]


def hardware(place: Place) -> str:
    """One line on what runs."""
    where = torch.cuda.get_device_name() if place.device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{where}, {str(place.dtype).removeprefix('torch.')}, 1 thread; {versions}"


def main() -> None:
    """Print the table."""
    args = parse_arguments()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    place = Place(args.device, getattr(torch, args.dtype))
    if args.peak:
        report_peak(args.shapes[0], place, args.tokens[0], args.pairs, args.peak)
        return
    print(hardware(place))
    contestants = available(args.contestants)
    print("shape       tokens pairs  contestant  s/pair    over floor  peak MiB  error")
    for shape in args.shapes:
        wrong = {} if args.no_errors else errors(shape, place, min(args.tokens), contestants)
        for num_tokens in args.tokens:
            num_pairs = args.pairs or max(1, BATCH_TOKENS[place.device] // (2 * num_tokens))
            medians = seconds(shape, place, num_tokens, num_pairs, contestants, args.repeats)
            for contestant in contestants:
                peak = (
                    "" if args.no_memory else f"{peak_mebibytes(shape, place, num_tokens, num_pairs, contestant):.0f}"
                )
                error = f"{wrong[contestant]:.1e}" if contestant in wrong and num_tokens == min(args.tokens) else ""
                ratio = medians[contestant] / medians["floor"]
                print(
                    f"{shape:11} {num_tokens:6} {num_pairs:5}  {contestant:10}"
                    f"  {medians[contestant]:8.4f}  {ratio:10.3f}  {peak:>8}  {error}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
