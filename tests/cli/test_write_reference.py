"""`scan --write-reference`: the data with the reference log-probs that TRL would compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import LONG, MODEL, SAMPLE, Entangle

SHORT = SAMPLE / "short_ending.jsonl"


def rows_of(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def twelve(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(SHORT.read_text().splitlines(keepends=True)[:12]))
    return path


@pytest.mark.slow
def test_the_columns_are_those_of_trl(entangle: Entangle, twelve: Path, tmp_path: Path) -> None:
    """TRL computes the same log-probs, and a trainer that keeps the columns trains as one that computes them."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    outcome = entangle("scan", MODEL, twelve, "--write-reference", "written.jsonl", "-o", "run")
    assert outcome.code == 0, outcome.err
    assert "written.jsonl: 12 rows with reference log-probs" in outcome.err
    written = rows_of("written.jsonl")
    assert [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in written] == rows_of(twelve)

    class WithReference(DPOTrainer):  # type: ignore[misc]
        def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
            return dataset

    arguments = DPOConfig(
        output_dir=str(tmp_path / "trained"), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-4,
        logging_steps=1, report_to=[], use_cpu=True, precompute_ref_log_probs=True, disable_tqdm=True,
        bf16=False, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip

    def trained(trainer_class: Any, rows: list[dict[str, Any]]) -> Any:
        trainer = trainer_class(
            AutoModelForCausalLM.from_pretrained(MODEL),
            args=arguments,
            processing_class=AutoTokenizer.from_pretrained(MODEL),
            train_dataset=Dataset.from_list(rows),
        )
        trainer.train()
        return trainer

    own, computed = trained(WithReference, written), trained(DPOTrainer, rows_of(twelve))
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert [row[name] for row in written] == pytest.approx(list(computed.train_dataset[name]), rel=1e-5)
    losses = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (own, computed)]
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_reference_model_gives_its_own_log_probs(entangle: Entangle, twelve: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    model.save_pretrained("reference")
    AutoTokenizer.from_pretrained(MODEL).save_pretrained("reference")
    words = ("--write-reference", "written.jsonl", "--json", "run.json", "-q")
    assert entangle("scan", MODEL, twelve, "--ref-model", "reference", *words).code == 0
    assert entangle("scan", "reference", twelve, "--json", "alone.json", "-q").code == 0
    alone = [pair["chosen_log_prob"] for pair in json.loads(Path("alone.json").read_text())["pairs"]]
    policy = [pair["chosen_log_prob"] for pair in json.loads(Path("run.json").read_text())["pairs"]]
    written = [row["ref_chosen_logps"] for row in rows_of("written.jsonl")]
    assert written == pytest.approx(alone, rel=1e-5)
    assert written != pytest.approx(policy, rel=1e-2)


def test_rows_without_log_probs_are_left_out(entangle: Entangle, twelve: Path) -> None:
    with twelve.open("a") as file:
        file.write('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    outcome = entangle("scan", MODEL, twelve, "--limit", "13", "--write-reference", "written.jsonl")
    assert outcome.code == 0
    num_written = len(rows_of("written.jsonl"))
    assert num_written < 13
    assert f"{num_written} rows with reference log-probs; " in outcome.err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--write-reference", "rows.csv"), "--write-reference rows.csv: the data are"),
        (("--write-reference", "absent/rows.jsonl"), "--write-reference absent/rows.jsonl: its folder does not exist"),
        ((LONG, "--write-reference", "w.jsonl"), "--write-reference with 2 data sets and 1 checkpoints"),
        (("--ranked", "all", "--write-reference", "w.jsonl"), "--write-reference with --ranked all"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_scan(entangle: Entangle, words: Any, found: str) -> None:
    outcome = entangle("scan", MODEL, SHORT, *words, "-o", "run")
    assert outcome.code == 2
    assert found in outcome.err
    assert not Path("run").exists()


def test_standard_input_cannot_be_written_back(entangle: Entangle) -> None:
    outcome = entangle("scan", MODEL, "-", "--write-reference", "w.jsonl")
    assert outcome.code == 2
    assert "--write-reference with data from standard input" in outcome.err


def test_columns_that_are_there_are_not_replaced(entangle: Entangle, twelve: Path) -> None:
    assert entangle("scan", MODEL, twelve, "--write-reference", "once.jsonl", "-q").code == 0
    outcome = entangle("scan", MODEL, "once.jsonl", "--write-reference", "twice.jsonl", "-q")
    assert outcome.code == 2
    assert "once.jsonl already has reference log-probs" in outcome.err
    assert not Path("twice.jsonl").exists()
