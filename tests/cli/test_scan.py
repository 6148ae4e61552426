"""`entangle scan` for the user: output, exit codes and resuming."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import entangle_cli
from entangle_cli.engine.engine import Engine
from entangle_cli.records.measurement import PairMeasurement, TokenizedPair
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.settings import ScanSettings
from entangle_cli.store import files
from tests.cli.conftest import LONG, MODEL, Entangle

PAIR = {"prompt": "The owl is", "chosen": " awake.", "rejected": " asleep."}

ANSWERS = ("chosen", "rejected")

RowsFile = Callable[[Sequence[Any]], Path]

CONTRACT = {
    "index", "pair_id", "status", "reason", "prompt_tokens", "chosen_tokens", "rejected_tokens", "chosen_truncated",
    "rejected_truncated", "chosen_log_prob", "rejected_log_prob", "chosen_ref_log_prob", "rejected_ref_log_prob",
    "chosen_grad_norm", "rejected_grad_norm", "inner_product", "cosine", "norm_ratio", "chosen_condition",
    "rejected_condition", "movement", "chosen_delta", "rejected_delta", "slack", "uncertain",
}  # fmt: skip
"""Names that external tools read."""


def test_a_scan_writes_the_run_and_the_document(entangle: Entangle) -> None:
    outcome = entangle("scan", MODEL, LONG, "--limit", "6", "-o", "run", "--json", "run.json")
    assert outcome.code == 0
    assert "5 of 6 pairs (83 %) go the wrong way, each on its own first step." in outcome.out
    assert "the first 6 of 100 rows, DPO" in outcome.out
    assert "checked against autograd" in outcome.err
    assert "\x1b" not in outcome.out + outcome.err
    document = json.loads(Path("run.json").read_text())
    assert (document["schema"], document["schema_version"], document["status"]) == ("entangle.run", "1.0", "complete")
    assert [pair["index"] for pair in document["pairs"]] == list(range(6))
    assert set(document["pairs"][0]) >= CONTRACT
    assert list(document["pairs"][0]) == [field.name for field in fields(PairRecord)]
    for pair in document["pairs"]:
        product = pair["cosine"] * pair["chosen_grad_norm"] * pair["rejected_grad_norm"]
        assert pair["inner_product"] == pytest.approx(product, rel=1e-9)
        assert pair["norm_ratio"] == pytest.approx(pair["chosen_grad_norm"] / pair["rejected_grad_norm"])
        # DPO at the reference has both coefficients beta / 2.
        delta = 0.05 * (pair["chosen_grad_norm"] ** 2 - pair["inner_product"])
        assert pair["chosen_delta"] == pytest.approx(delta, rel=1e-6)
    assert document["summary"] == json.loads(Path("run/summary.json").read_text())
    assert sum(part["rows"] for part in document["manifest"]["parts"]) == 6


def test_quiet_prints_nothing(entangle: Entangle) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "2", "-o", "run", "-q") == (0, "", "")


def test_the_function_prints_nothing_and_returns_the_records(
    entangle: Entangle, capfd: pytest.CaptureFixture[str]
) -> None:
    entangle("scan", MODEL, LONG, "--limit", "4", "-o", "run", "--json", "run.json", "-q")
    capfd.readouterr()
    records = entangle_cli.scan(str(MODEL), LONG, ScanSettings(limit=4))
    assert capfd.readouterr() == ("", "")
    document = json.loads(Path("run.json").read_text())
    assert [record.pair_id for record in records] == [pair["pair_id"] for pair in document["pairs"]]
    assert [record.cosine for record in records] == [pair["cosine"] for pair in document["pairs"]]
    assert entangle_cli.scan(str(MODEL), LONG, ScanSettings(limit=4), output="run")[:] == records[:]


def test_batches_do_not_change_the_numbers(entangle: Entangle) -> None:
    for name, tokens in (("one", "1"), ("many", "4096")):
        entangle(
            "scan", MODEL, LONG, "--limit", "8", "-o", name, "--json", f"{name}.json", "--batch-tokens", tokens, "-q"
        )
    one, many = (json.loads(Path(f"{name}.json").read_text())["pairs"] for name in ("one", "many"))
    for left, right in zip(one, many, strict=True):
        assert left["cosine"] == pytest.approx(right["cosine"], abs=1e-5)
        assert left["chosen_grad_norm"] == pytest.approx(right["chosen_grad_norm"], rel=1e-5)
        assert left["movement"] == right["movement"]


def test_a_sample_is_seeded_and_keeps_its_indices(entangle: Entangle) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        entangle("scan", MODEL, LONG, "--sample", "5", "--seed", seed, "-o", name, "--json", f"{name}.json", "-q")
    indices = {
        name: [pair["index"] for pair in json.loads(Path(f"{name}.json").read_text())["pairs"]] for name in "abc"
    }
    assert indices["a"] == indices["b"] == sorted(indices["a"])
    assert indices["a"] != indices["c"]


class _Interrupting:
    """Accepts some batches, then behaves like Ctrl-C."""

    def __init__(self, batches: int, error: BaseException) -> None:
        self.left = batches
        self.error = error
        self.real = Engine.start

    def __call__(
        self, engine: Engine, pairs: Sequence[TokenizedPair], *, recompute: bool
    ) -> Callable[[], list[PairMeasurement]]:
        if not self.left:
            raise self.error
        self.left -= 1
        return self.real(engine, pairs, recompute=recompute)


def _broken(monkeypatch: pytest.MonkeyPatch, batches: int, error: BaseException) -> None:
    interrupting = _Interrupting(batches, error)
    monkeypatch.setattr(
        Engine, "start", lambda engine, pairs, *, recompute=False: interrupting(engine, pairs, recompute=recompute)
    )


SMALL_BATCHES = ("--limit", "9", "--batch-tokens", "150")


def test_an_interrupted_scan_can_be_reported_and_goes_on(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    entangle("scan", MODEL, LONG, *SMALL_BATCHES, "-o", "whole", "--json", "whole.json", "-q")
    with monkeypatch.context() as patch:
        _broken(patch, 2, KeyboardInterrupt())
        outcome = entangle("scan", MODEL, LONG, *SMALL_BATCHES, "-o", "run")
    assert outcome.code == 130
    assert "goes on from there" in outcome.err
    partial = entangle("report", "run")
    assert partial.code == 0
    assert "PARTIAL" in partial.out
    done = json.loads(entangle("report", "run", "--format", "json").out)
    assert done["status"] == "partial"
    assert 0 < len(done["pairs"]) < 9
    again = entangle("scan", MODEL, LONG, *SMALL_BATCHES, "-o", "run", "--json", "run.json")
    assert again.code == 0
    assert f"goes on after {len(done['pairs'])} pairs" in again.err
    run, whole = (json.loads(Path(f"{name}.json").read_text()) for name in ("run", "whole"))
    assert run["status"] == "complete"
    assert run["pairs"] == whole["pairs"]


def test_an_unexpected_error_is_not_a_failed_gate(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch, 0, ZeroDivisionError("inside the engine"))
    outcome = entangle("scan", MODEL, LONG, "--limit", "2", "-o", "run", "--fail-if", "pairs < 1")
    assert outcome.code == 4
    assert "Traceback" not in outcome.err
    assert "ZeroDivisionError" in outcome.err
    assert "Traceback" in entangle("scan", MODEL, LONG, "--limit", "2", "-o", "run", "--debug").err


@pytest.mark.parametrize("most", [2, 0])
def test_out_of_memory_halves_the_batch_and_then_recomputes_without_losing_a_pair(
    most: int, entangle: Entangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device with memory for two pairs, or for one only with recomputed layers."""
    entangle("scan", MODEL, LONG, "--limit", "9", "-o", "whole", "--json", "whole.json", "-q")
    real, sizes = Engine.start, []

    def small_device(
        engine: Engine, pairs: Sequence[TokenizedPair], *, recompute: bool = False
    ) -> Callable[[], list[PairMeasurement]]:
        sizes.append(len(pairs))
        if len(pairs) > max(most, int(recompute)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(engine, pairs, recompute=recompute)

    monkeypatch.setattr(Engine, "start", small_device)
    assert entangle("scan", MODEL, LONG, "--limit", "9", "-o", "run", "--json", "run.json", "-q").code == 0
    assert max(sizes) > 2
    run, whole = (json.loads(Path(f"{name}.json").read_text())["pairs"] for name in ("run", "whole"))
    assert [pair["index"] for pair in run] == list(range(9))
    for left, right in zip(run, whole, strict=True):
        assert left["cosine"] == pytest.approx(right["cosine"], abs=1e-5)


def test_one_pair_too_large_ends_with_4_and_keeps_the_rest(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch, 1, torch.OutOfMemoryError("CUDA out of memory"))
    outcome = entangle("scan", MODEL, LONG, *SMALL_BATCHES, "-o", "run")
    assert outcome.code == 4
    assert "out of memory on row" in outcome.err
    assert json.loads(Path("run/manifest.json").read_text())["parts"]


def test_a_full_disk_ends_with_4_and_the_run_goes_on(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:  # noqa: ARG001 -- as os.fsync
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        outcome = entangle("scan", MODEL, LONG, "--limit", "3", "-o", "run")
    assert outcome.code == 4
    assert "No space left on device" in outcome.err
    assert entangle("scan", MODEL, LONG, "--limit", "3", "-o", "run", "-q").code == 0


def test_a_full_disk_at_the_summary_prints_three_lines(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.write_atomically

    def full_for_the_summary(path: Path, content: bytes) -> None:
        if path.name == "summary.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(files, "write_atomically", full_for_the_summary)
    assert_refused(
        entangle("scan", MODEL, LONG, "--limit", "2", "-o", "run"), 4, "No space left on device", "free some space"
    )


def assert_refused(outcome: Any, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.err
    message = outcome.err[outcome.err.index("error:") :]
    assert len(message.strip().splitlines()) == 3
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in message


def test_the_attention_implementation_is_used_and_part_of_the_identity(entangle: Entangle) -> None:
    words = ("scan", MODEL, LONG, "--limit", "4", "-q")
    for name in ("eager", "sdpa"):
        assert entangle(*words, "-o", name, "--json", f"{name}.json", "--attn-implementation", name).code == 0
    eager, sdpa = (json.loads(Path(f"{name}.json").read_text()) for name in ("eager", "sdpa"))
    for one, other in zip(eager["pairs"], sdpa["pairs"], strict=True):
        assert one["cosine"] == pytest.approx(other["cosine"], abs=1e-5)
        assert one["chosen_log_prob"] == pytest.approx(other["chosen_log_prob"], rel=1e-5)
    assert eager["manifest"]["identity"]["settings"]["attn_implementation"] == "eager"
    assert entangle(*words, "-o", "eager").code == 2
    assert entangle(*words, "-o", "hub", "--attn-implementation", "kernels-community/flash-attn").code == 2
    assert_refused(entangle(*words, "-o", "f", "--attn-implementation", "flash_attention_2"), 3, "FlashAttention2")


def test_missing_model_and_data(entangle: Entangle) -> None:
    assert_refused(entangle("scan", "./nowhere", LONG), 3, "./nowhere: no such folder")
    assert_refused(entangle("scan", MODEL, "nowhere.jsonl"), 3, "nowhere.jsonl: no such file")


def test_not_a_causal_model(entangle: Entangle, tmp_path: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    assert_refused(entangle("scan", "./bert", LONG), 3, "BertForMaskedLM, not a causal language model")


def test_weights_that_are_not_finite(entangle: Entangle, tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    assert_refused(entangle("scan", "./model", LONG), 3, name, "NaN")


def test_data_without_pairs(entangle: Entangle, rows_file: RowsFile) -> None:
    assert_refused(entangle("scan", MODEL, rows_file([{"text": "a"}])), 3, "no preference pair", "columns: text")
    assert_refused(entangle("scan", MODEL, rows_file([])), 3, "no rows")


ROWS: list[Any] = [
    {"prompt": "One", "chosen": " two", "rejected": " three"},
    '{"prompt": "broken", "chosen": ',
    {"prompt": "One", "chosen": None, "rejected": " three"},
    {"prompt": "One", "chosen": "", "rejected": " three"},
    {"prompt": "One", "chosen": " two", "rejected": " two"},
    {"prompt": "word " * 200, "chosen": " two", "rejected": " three"},
    "[1, 2]",
]


def test_bad_rows_are_counted_and_listed_with_their_lines(entangle: Entangle, rows_file: RowsFile) -> None:
    outcome = entangle("scan", MODEL, rows_file(ROWS), "--max-length", "64", "-o", "run", "--json", "run.json")
    assert outcome.code == 0
    pairs = json.loads(Path("run.json").read_text())["pairs"]
    reasons = [None, "malformed", "null", None, "identical", "prompt_too_long", "malformed"]
    assert [pair["reason"] for pair in pairs] == reasons
    assert [pair["line"] for pair in pairs] == list(range(1, 8))
    assert "5 rows not measured: malformed 2, " in " ".join(outcome.out.split())
    assert "line 2: malformed: broken JSON" in entangle("report", "run", "--verbose").out
    assert all(pair["cosine"] is None and pair["chosen_tokens"] is None for pair in pairs if pair["reason"])
    # An empty answer consists of its end-of-sequence token only, as in TRL.
    assert (pairs[3]["warnings"], pairs[3]["status"]) == ("W-EMPTY-ANSWER", "ok")


def test_strict_ends_at_the_first_bad_row(entangle: Entangle, rows_file: RowsFile) -> None:
    assert_refused(entangle("scan", MODEL, rows_file(ROWS), "-o", "run", "--strict"), 3, "line 2", "broken JSON")


def test_nothing_to_judge_does_not_pass(entangle: Entangle, rows_file: RowsFile) -> None:
    same = rows_file([{"prompt": "One", "chosen": " two", "rejected": " two"}])
    assert_refused(entangle("scan", MODEL, same, "-o", "a"), 5, "none of 1 rows could be measured")
    outcome = entangle("scan", MODEL, same, "-o", "b", "--fail-if", "both_fall_rate > 0.1")
    assert outcome.code == 5
    assert "cannot judge" in outcome.out


def test_a_run_of_other_settings_is_not_mixed(entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "--limit", "2", "-o", "run", "-q")
    before = Path("run/manifest.json").read_bytes()
    outcome = entangle("scan", MODEL, LONG, "--limit", "2", "--max-length", "99", "-o", "run")
    assert_refused(outcome, 2, "different max_length")
    short = LONG.with_name("short_ending.jsonl")
    assert_refused(entangle("scan", MODEL, short, "--limit", "2", "-o", "run"), 2, "different data")
    assert Path("run/manifest.json").read_bytes() == before


def test_another_loss_needs_no_new_measurement(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    entangle("scan", MODEL, LONG, "--limit", "3", "-o", "run", "-q")
    _broken(monkeypatch, 0, AssertionError("measured again"))
    outcome = entangle("scan", MODEL, LONG, "--limit", "3", "-o", "run", "--loss", "simpo", "--beta", "2")
    assert outcome.code == 0
    assert "SimPO (simpo, beta 2, gamma 0.5, nll_weight 0)" in " ".join(outcome.out.split())


def test_a_damaged_part_is_measured_again(entangle: Entangle) -> None:
    command = ("scan", MODEL, LONG, "--limit", "3", "-o", "run", "--json", "run.json", "-q")
    entangle(*command)
    before = json.loads(Path("run.json").read_text())["pairs"]
    part = next(Path("run/pairs").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-7])
    assert_refused(entangle("report", "run"), 3, "missing or changed")
    assert entangle(*command).code == 0
    assert json.loads(Path("run.json").read_text())["pairs"] == before


def test_folders_that_cannot_be_written(entangle: Entangle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(entangle("scan", MODEL, LONG, "-o", "file/run"), 2, "--output file/run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("")
    assert_refused(entangle("scan", MODEL, LONG, "-o", "full"), 2, "not empty and is not a run")
    assert_refused(entangle("scan", MODEL, LONG, "--json", "no/such/file.json"), 2, "--json")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--loss", "dpoo"), "dpoo"),
        (("--beta", "0"), "beta"),
        (("--fail-if", "both_fal_rate > 1"), "both_fall_rate"),
        (("--parameters", "nothing"), "matches none"),
        (("--parameters", "("), "--parameters"),
        (("--device", "warp"), "--device warp"),
    ],
)
def test_settings_that_cannot_be_used(entangle: Entangle, words: tuple[str, ...], found: str) -> None:
    assert_refused(entangle("scan", MODEL, LONG, "--limit", "1", "-o", "run", *words), 2, found)


def test_usage_errors_of_the_parser_exit_with_2(entangle: Entangle) -> None:
    for words in (("scan",), ("scan", MODEL, LONG, "--dtype", "float16"), ("unknown",)):
        assert entangle(*words).code == 2


def test_the_default_folder_is_found_again(entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "--limit", "2", "-q")
    assert "goes on after 2 pairs" in entangle("scan", MODEL, LONG, "--limit", "2").err
    assert entangle("report").code == 0
    assert len(list(Path("entangle-runs").iterdir())) == 1


def test_a_dry_run_prints_the_cost_and_writes_nothing(entangle: Entangle) -> None:
    outcome = entangle("scan", MODEL, LONG, "--dry-run", "--sample", "40")
    assert outcome.code == 0
    assert "951,424 of 951,424" in outcome.out
    memory, duration = outcome.out.splitlines()[-2:]
    assert "weights 3.8 MB" in memory
    assert "for 40 rows" in duration
    assert not Path("entangle-runs").exists()


def test_a_dry_run_without_a_pair_that_fits_is_refused(entangle: Entangle) -> None:
    assert_refused(entangle("scan", MODEL, LONG, "--dry-run", "--max-length", "2"), 3, "none of the first")


def test_float16_is_refused_with_its_reason(entangle: Entangle) -> None:
    assert_refused(entangle("scan", MODEL, LONG, "--dtype", "float16"), 2, "float16", "65,504", "use --dtype bfloat16")


def test_a_series_of_checkpoints_is_a_run_each(entangle: Entangle, tmp_path: Path) -> None:
    for step in (2, 10):
        shutil.copytree(MODEL, tmp_path / f"out/checkpoint-{step}")
    words = ("scan", "out", LONG, "--limit", "3", "--checkpoints", "all", "-o", "runs")
    outcome = entangle(*words, "--fail-if", "both_fall_rate >= 1")
    assert outcome.code == 0, outcome.err
    for step in (2, 10):
        manifest = json.loads(Path(f"runs/checkpoint-{step}/manifest.json").read_text())
        assert (manifest["training_step"], manifest["identity"]["model"]["name"]) == (step, f"out/checkpoint-{step}")
    assert entangle(*words, "-q", "--fail-if", "both_fall_rate >= 0").code == 1
    assert_refused(entangle(*words, "--json", "run.json"), 2, "--json run.json with 2 checkpoints")
    assert_refused(entangle("scan", MODEL, LONG, "--checkpoints", "all"), 2, "holds no checkpoint-N")


def test_ranked_rows_resume_after_any_pair(entangle: Entangle, rows_file: RowsFile) -> None:
    answers = [{"answer": text, "rank": rank} for rank, text in enumerate((" awake.", " asleep.", " hungry.", " old."))]
    path = rows_file([{"prompt": "The owl is", "answers": answers}] * 2 + [PAIR])
    words = ("scan", MODEL, path, "--ranked", "all", "-o", "run", "--json", "run.json")
    outcome = entangle(*words)
    assert outcome.code == 0, outcome.err
    pairs = json.loads(Path("run.json").read_text())["pairs"]
    assert [(pair["index"], pair["pair_in_row"]) for pair in pairs] == [
        *((row, number) for row in range(2) for number in range(6)),
        (2, None),
    ]
    assert [notice["count"] for notice in json.loads(Path("run/summary.json").read_text())["notices"]] == [7]
    part = next(Path("run/pairs").glob("*.parquet"))
    kept = pq.read_table(part).slice(2, 7)
    pq.write_table(kept, part)
    manifest = json.loads(Path("run/manifest.json").read_text())
    manifest["parts"][0] |= {"rows": 7, "sha256": hashlib.sha256(part.read_bytes()).hexdigest()}
    Path("run/manifest.json").write_text(json.dumps(manifest))
    assert entangle(*words).code == 0
    again = json.loads(Path("run.json").read_text())["pairs"]
    assert [pair["pair_id"] for pair in again] == [pair["pair_id"] for pair in pairs]
    assert [pair["cosine"] for pair in again] == pytest.approx([pair["cosine"] for pair in pairs], abs=1e-5)
    assert_refused(entangle("scan", MODEL, path, "--ranked", "adjacent", "-o", "run"), 2, "different ranked")


def test_warnings_appear_in_every_output(entangle: Entangle, rows_file: RowsFile) -> None:
    swapped = {**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
    path = rows_file([PAIR, swapped, {**PAIR, "system": "x"}, {**PAIR, "prompt": ""}])
    outcome = entangle("scan", MODEL, path, "-o", "run", "--json", "run.json")
    assert outcome.code == 0, outcome.err
    document = json.loads(Path("run.json").read_text())
    expected = {"W-PROMPT-EMPTY": 1, "W-SYSTEM-UNUSED": 1, "W-CONTRADICTION": 1, "W-DUPLICATE": 1}
    assert {notice["code"]: notice["count"] for notice in document["summary"]["notices"]} == expected
    assert [pair["warnings"] for pair in document["pairs"]] == [None, None, "W-SYSTEM-UNUSED", "W-PROMPT-EMPTY"]
    for code in expected:
        assert code in outcome.out
        assert f"({code})" in entangle("report", "run", "--verbose").out


def test_rows_of_token_ids_measure_as_their_texts_do(entangle: Entangle, rows_file: RowsFile) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = [json.loads(line) for line in LONG.read_text().splitlines()[:4]]
    rows = []
    for row in texts:
        prompt = tokenizer(row["prompt"])["input_ids"]
        sides = {side: tokenizer(row["prompt"] + row[side] + tokenizer.eos_token)["input_ids"] for side in ANSWERS}
        assert all(ids[: len(prompt)] == prompt for ids in sides.values())
        rows.append({"prompt_ids": prompt, **{f"{side}_ids": ids[len(prompt) :] for side, ids in sides.items()}})
    assert entangle("scan", MODEL, LONG, "--limit", "4", "-o", "texts", "--json", "texts.json").code == 0
    assert entangle("scan", MODEL, rows_file(rows), "-o", "ids", "--json", "ids.json").code == 0
    by_text, by_ids = (json.loads(Path(name).read_text())["pairs"] for name in ("texts.json", "ids.json"))
    for field in ("cosine", "chosen_log_prob", "rejected_log_prob", "chosen_grad_norm", "prompt_tokens"):
        assert [pair[field] for pair in by_ids] == pytest.approx([pair[field] for pair in by_text], rel=1e-5)


def test_layers_are_stored_beside_the_pairs_and_add_up_to_them(entangle: Entangle) -> None:
    words = ("scan", MODEL, LONG, "--limit", "6", "--layers", "-o", "run", "--json", "run.json")
    outcome = entangle(*words)
    assert outcome.code == 0, outcome.err
    assert "block 0 MLP" in entangle("report", "run", "--verbose").out
    document = json.loads(Path("run.json").read_text())
    parts = sorted(Path("run/layers").glob("*.parquet"))
    layers = [row for path in parts for row in pq.read_table(path).to_pylist()]
    for pair in document["pairs"]:
        own = [row for row in layers if row["index"] == pair["index"]]
        assert sum(row["inner_product"] for row in own) == pytest.approx(pair["inner_product"], rel=1e-9)
        assert sum(row["chosen_squared_norm"] for row in own) == pytest.approx(pair["chosen_grad_norm"] ** 2, rel=1e-9)
    profile = document["summary"]["layers"]
    mean = sum(pair["cosine"] for pair in document["pairs"]) / 6
    assert sum(row["cosine_part"] for row in profile) == pytest.approx(mean)
    parts[0].write_bytes(b"damaged")
    assert_refused(entangle("report", "run"), 3, f"{parts[0]}: missing or changed")
    assert entangle(*words).code == 0
    assert_refused(entangle("scan", MODEL, LONG, "--limit", "6", "-o", "run"), 2, "different layers")


def test_text_that_cannot_be_encoded_loses_no_row(entangle: Entangle, rows_file: RowsFile) -> None:
    path = rows_file([PAIR, '{"\\ud800": 1}', {**PAIR, "prompt": "The owl was"}])
    outcome = entangle("scan", MODEL, path, "-o", "run", "--json", "run.json", "--include-text")
    assert outcome.code == 0, outcome.err
    pairs = json.loads(Path("run.json").read_text())["pairs"]
    assert [pair["status"] for pair in pairs] == ["ok", "skipped", "ok"]
    assert "\\ud800" in pairs[1]["detail"]


def test_a_description_beside_the_data_is_part_of_what_was_measured(entangle: Entangle, tmp_path: Path) -> None:
    row = {"instruction": "The owl is", "a": " awake.", "b": " asleep."}
    (tmp_path / "my.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")

    def describe(chosen: str, rejected: str) -> None:
        entry = {"file_name": "my.jsonl", "ranking": True, "columns": {"chosen": chosen, "rejected": rejected}}
        (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))

    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    words = ("scan", MODEL, "my.jsonl", "-o", "run", "--chat-template", template)
    describe("a", "b")
    assert entangle(*words).code == 0
    describe("b", "a")
    assert_refused(entangle(*words), 2, "different data")
    half = entangle("scan", MODEL, "my.jsonl", "--split", "train[:50%]", "-o", "half", "--chat-template", template)
    assert half.code == 0, half.err
    assert "LLaMA-Factory alpaca" in half.err


def test_data_cannot_add_output_lines(entangle: Entangle, rows_file: RowsFile) -> None:
    outcome = entangle("scan", MODEL, rows_file([{"a\n::error::pwned": 1}]))
    assert outcome.code == 3
    assert len(outcome.err.strip().splitlines()) == 3
    chat = {side: [{"role": "user\n::error::x\x1b[31m", "content": side}] for side in ("chosen", "rejected", "prompt")}
    shown = entangle("inspect", rows_file([chat])).out
    assert "\x1b" not in shown
    assert not any(line.startswith("::error") for line in shown.splitlines())
