"""Whether the engine is right on a GPU, how fast it is there, and where its time goes.

    python -m tests.benchmarks.card [--budget 330] [--steps families speed ...] [--json FILE]
    python -m tests.benchmarks.card --device cpu --tiny      # a rehearsal without a GPU

Every step is timed and runs on its own: one that fails is reported, and one for which no time is left is skipped.
Speed is in multiples of the floor of `engine_speed`, in bfloat16, with random weights that are made on the device. The
result beside `python -m tests.benchmarks.roofline` shows how good the estimates are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from transformers import LlamaConfig, PreTrainedModel

from entangle_cli.diagnose.scan.budget import batch_tokens, within_memory
from entangle_cli.engine.batch import plan_batches
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.pair_products import Route
from entangle_cli.records.measurement import PairMeasurement, TokenizedPair, TokenizedResponse
from tests.benchmarks import engine_speed, peers
from tests.engine.pairs import assorted_pairs
from tests.engine.test_engine import assert_close, truth
from tests.tiny_models import ALL_FAMILIES, VOCABULARY, tiny_model
from tests.tolerances import TOLERANCES
from tests.true_float64 import TrueFloat64

Numbers = Mapping[str, Any]

CASES = (
    *(("llama-8b", 512, 4), ("llama-1b", 512, 16), ("qwen2-0.5b", 512, 16)),
    *(("gpt2-124m", 512, 16), ("gpt2-124m", 64, 128), ("llama-8b", 2048, 1)),
)
"""Shape, tokens of a sequence and pairs of a batch."""
NARROW_FAMILIES = ("gpt2", "llama", "gemma2", "qwen3", "qwen2-moe")
"""Families that are also judged in float32 and bfloat16."""
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@dataclass(frozen=True, slots=True)
class Check:
    """Where the steps run, and until when."""

    device: str
    is_tiny: bool
    end: float
    """Of `time.monotonic`."""

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], repeats: int = 3) -> float:
        """Median wall time of some work, after one run that does not count."""
        work()
        times = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def model(self, shape: str) -> PreTrainedModel:
        """A random model of a shape in bfloat16; in a rehearsal a tiny one."""
        place = engine_speed.Place(self.device, torch.bfloat16)
        if not self.is_tiny:
            return engine_speed.build_model(shape, place)
        with patch.dict(engine_speed.SHAPES, {shape: lambda: LlamaConfig(**TINY)}):
            return engine_speed.build_model(shape, place)

    def pairs(self, model: PreTrainedModel, num_tokens: int, num_pairs: int) -> list[TokenizedPair]:
        """Random pairs; in a rehearsal few and short ones."""
        if self.is_tiny:
            num_tokens, num_pairs = 32, 2
        return engine_speed.build_pairs(num_tokens, num_pairs, model.config.vocab_size)


@contextmanager
def opened(model: PreTrainedModel) -> Iterator[Engine]:
    """An engine for all parameters of a model."""
    with Engine(model, dict(model.named_parameters())) as engine:
        yield engine


def ceilings(check: Check) -> Numbers:
    """What the device reaches: flops of large products, bytes of a copy, seconds of a launch."""
    size = 256 if check.is_tiny else 8192
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        matrix = torch.randn(size, size, device=check.device, dtype=dtype)
        took = check.seconds(lambda matrix=matrix: matrix @ matrix, 5)
        found[f"{str(dtype).removeprefix('torch.')}_flops"] = 2 * size**3 / took
    source = torch.empty(8 * size * size, device=check.device)
    target = torch.empty_like(source)
    found["bytes_per_second"] = 2 * source.nbytes / check.seconds(lambda: target.copy_(source), 5)
    small = torch.zeros(8, device=check.device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    return {**found, "launch_seconds": check.seconds(launches) / 1000}


def families(check: Check) -> Numbers:
    """Every family and route on the device in float64 against autograd on the host; a few in float32 and bfloat16."""
    pairs = assorted_pairs(VOCABULARY)
    wrong, runs, left_out = [], 0, []
    for family in list(ALL_FAMILIES)[: 3 if check.is_tiny else None]:
        if check.left < 60:
            left_out.append(family)
            continue
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            if dtype != torch.float64 and family not in NARROW_FAMILIES:
                continue
            try:
                runs += _judge(check, family, dtype, pairs)
            except Exception as error:
                first_line = (str(error).splitlines() or [""])[0]
                wrong.append(f"{family} {dtype}: {type(error).__name__}: {first_line[:160]}")
    return {"runs": runs, "wrong": wrong, "left_out": left_out}


def _judge(check: Check, family: str, dtype: torch.dtype, pairs: Sequence[TokenizedPair]) -> int:
    """Raise if a route differs from autograd. Returns the number of routes."""
    with TrueFloat64():
        wide = tiny_model(family, dtype).to(torch.float64)
        expected = [truth(wide, pair) for pair in pairs]
    model = tiny_model(family, dtype).to(check.device)
    routes = list(Route) if dtype == torch.float64 else [Route.CHEAPER]
    for route in routes:
        with TrueFloat64(), Engine(model, dict(model.named_parameters()), route) as engine:
            for measured, true in zip(engine.measure(pairs), expected, strict=True):
                assert_close(measured, true, TOLERANCES[dtype])
    return len(routes)


def synchronisations(check: Check) -> Numbers:
    """Where one batch makes the host wait for the device, to how often."""
    model = check.model("gpt2-124m")
    pairs = check.pairs(model, 128, 16)
    places: Counter[str] = Counter()
    with opened(model) as engine:
        engine.measure(pairs)
        if check.device != "cuda":
            return {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            engine.measure(pairs)
            torch.cuda.set_sync_debug_mode("default")
    places.update(f"{Path(one.filename).name}:{one.lineno}" for one in caught)
    return dict(places)


def speed(check: Check) -> Numbers:
    """Floors of the engine and its alternatives by shape, with pairs per second and peak memory."""
    found: dict[str, Numbers] = {}
    for shape, num_tokens, num_pairs in CASES[: 1 if check.is_tiny else None]:
        name = f"{shape} {num_tokens} x {num_pairs}"
        if check.left < 60:
            found[name] = {"left_out": "no time was left"}
            continue
        model = check.model(shape)
        pairs = check.pairs(model, num_tokens, num_pairs)
        with engine_speed.prepared(model, "entangle"):
            found[name] = _speed_of(check, model, pairs, shape)
        del model
    return found


def _speed_of(check: Check, model: PreTrainedModel, pairs: Sequence[TokenizedPair], shape: str) -> Numbers:
    found: dict[str, Any] = {}
    floor = check.seconds(lambda: engine_speed.run(model, pairs, "floor")) / len(pairs)
    contestants = ["entangle"]
    contestants += ["dattri"] if peers.is_available("dattri") is None else []
    contestants += ["flattened"] if shape != "llama-8b" else []  # two gradients of 8B do not fit beside it
    for contestant in contestants:
        some = pairs if contestant == "entangle" else pairs[: max(1, len(pairs) // 4)]
        took = check.seconds(lambda some=some, contestant=contestant: engine_speed.run(model, some, contestant))
        found[contestant] = took / len(some) / floor
    found["floor_seconds_per_pair"] = floor
    found["pairs_per_second"] = 1 / (found["entangle"] * floor)
    if check.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        engine_speed.run(model, pairs, "entangle")
        check.wait()
        found["peak_gibibytes"] = (torch.cuda.max_memory_allocated() - before) / 2**30
    return found


def lengths(check: Check) -> Numbers:
    """Pairs per second on batches of many shapes, as data have them: the first time and again."""
    model = check.model("llama-1b")
    generator = torch.Generator().manual_seed(5)
    longest = 20 if check.is_tiny else 300

    def draw(least: int) -> tuple[int, ...]:
        count = int(torch.randint(least, longest, (1,), generator=generator))
        return tuple(torch.randint(0, model.config.vocab_size, (count,), generator=generator).tolist())

    pairs = []
    for _ in range(8 if check.is_tiny else 160):
        prompt = draw(10)
        sides = [TokenizedResponse(prompt + draw(5), len(prompt)) for _ in range(2)]
        pairs.append(TokenizedPair(*sides))
    found: dict[str, Any] = {}
    with opened(model) as engine:
        limit = batch_tokens(torch.device(check.device), model, engine.plan.bytes_per_token)
        batches = [[pairs[place] for place in batch] for batch in plan_batches(pairs, limit)]
        for name in ("first_time", "again"):
            check.wait()
            start = time.perf_counter()
            for batch in batches:
                engine.measure(batch)
            found[name] = len(pairs) / (time.perf_counter() - start)
    return {**found, "batches": len(batches), "batch_tokens": limit}


def memory(check: Check) -> Numbers:
    """Whether a batch that does not fit is split, and its pairs keep their numbers."""
    if check.device != "cuda":
        return {}
    model = check.model("gpt2-124m")
    pairs = check.pairs(model, 512, 32)
    splits = 0
    with opened(model) as engine:
        expected = engine.measure(pairs[:1])[0].inner_product
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_allocated() + 3 * 2**30) / total))

        def measure(rows: Sequence[TokenizedPair]) -> list[PairMeasurement]:
            nonlocal splits
            measured = within_memory(lambda: engine.measure(rows))
            if measured is not None:
                return measured
            splits += 1
            half = len(rows) // 2
            return measure(rows[:half]) + measure(rows[half:])

        found = measure(pairs)
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"splits": splits, "pairs": len(found), "first_pair_error": abs(found[0].inner_product / expected - 1)}


def profile(check: Check) -> Numbers:
    """The operations that take most of a batch's time, in milliseconds."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    is_cuda = check.device == "cuda"
    model = check.model("llama-1b")
    pairs = check.pairs(model, 512, 16)
    with opened(model) as engine:
        engine.measure(pairs)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
        with profiled(activities=activities) as trace:
            engine.measure(pairs)
            check.wait()

    def milliseconds(event: Any) -> float:
        return float(event.self_device_time_total if is_cuda else event.self_cpu_time_total) / 1000

    slowest = sorted(trace.key_averages(), key=milliseconds, reverse=True)[:15]
    return {event.key: milliseconds(event) for event in slowest}


STEPS: Mapping[str, Callable[[Check], Numbers]] = {
    step.__name__: step for step in (ceilings, families, synchronisations, speed, lengths, memory, profile)
}


def run_steps(check: Check, names: Sequence[str]) -> dict[str, Any]:
    """The numbers of every step, the text of what failed, or that no time was left."""
    found: dict[str, Any] = {}
    for name in names:
        start = time.monotonic()
        if check.left < 20:
            found[name] = {"left_out": "no time was left"}
        else:
            try:
                found[name] = STEPS[name](check)
            except Exception as error:
                found[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        if check.device == "cuda":
            torch.cuda.empty_cache()
        print(f"{name}, {time.monotonic() - start:.0f} s: {json.dumps(found[name])}", flush=True)
    return found


def parse_arguments() -> argparse.Namespace:
    """What to check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--tiny", action="store_true", help="tiny models and few pairs, to rehearse")
    parser.add_argument("--budget", type=float, default=330, help="seconds; no step starts in the last 20")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def main() -> None:
    """Run the steps and keep what they found."""
    arguments = parse_arguments()
    transformers.logging.set_verbosity_error()
    check = Check(arguments.device, arguments.tiny, time.monotonic() + arguments.budget)
    setting = {
        "card": torch.cuda.get_device_name() if check.device == "cuda" else platform.machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "is_tiny": check.is_tiny,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(setting), flush=True)
    found = run_steps(check, arguments.steps)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**setting, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
