"""`compare --trainer-log`: the curves of a training beside the scan of its start, against the trained model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import LONG, MODEL, Entangle


def write_log(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"log_history": entries}))
    return path


def entry(step: int, chosen: float, rejected: float, **more: float) -> dict[str, Any]:
    return {"step": step, "rewards/chosen": chosen, "rewards/rejected": rejected, **more}


@pytest.fixture
def start(entangle: Entangle) -> str:
    """The scan of the training's start: 12 pairs."""
    assert entangle("scan", MODEL, LONG, "--limit", "12", "-o", "start", "-q").code == 0
    return "start"


@pytest.mark.slow
def test_the_changes_are_those_of_the_trained_model(entangle: Entangle, start: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = [json.loads(line) for line in LONG.read_text().splitlines()[:12]]
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(MODEL),
        args=DPOConfig(
            output_dir=str(tmp_path / "out"), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-4,
            per_device_eval_batch_size=12, eval_strategy="steps", eval_steps=6, save_steps=6, logging_steps=1,
            report_to=[], use_cpu=True, disable_tqdm=True, bf16=False, gradient_checkpointing=False, beta=0.2,
        ),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    trainer.train()
    words = ("compare", start, "--trainer-log", "out/checkpoint-6", "--loss", "sigmoid", "--beta", "0.2")
    document = json.loads(entangle(*words, "--format", "json").out)
    (evaluated,) = document["curves"]["eval"]
    # The trained model's own log-probs of the same pairs, measured by a scan.
    assert (
        entangle("scan", "out/checkpoint-6", LONG, "--limit", "12", "-o", "end", "--json", "end.json", "-q").code == 0
    )
    assert entangle("report", start, "--write", "json=start.json").code == 0
    before, after = (json.loads(Path(name).read_text())["pairs"] for name in ("start.json", "end.json"))
    for answer in ("chosen", "rejected"):
        name = f"{answer}_log_prob"
        real = sum(new[name] - old[name] for old, new in zip(before, after, strict=True)) / 12
        assert evaluated[f"{answer}_change"] == pytest.approx(real, abs=2e-3)
    assert [point["step"] for point in document["curves"]["train"]] == [1, 2, 3, 4, 5, 6]
    assert document["curves"]["train"][0]["chosen_change"] == pytest.approx(0, abs=1e-4)
    page = entangle(*words, "--format", "html").out
    assert page.count("<figure>") == 4


def test_the_verdict_is_the_pairs_majority_against_the_end_of_the_curve(entangle: Entangle, start: str) -> None:
    log = write_log(Path("state.json"), [entry(step, -0.1 * step, 0.02 * step, loss=0.6) for step in range(1, 21)])
    document = json.loads(entangle("compare", start, "--trainer-log", log, "--format", "json").out)
    # The mean of steps 19 and 20, by beta 0.1.
    assert document["answers"]["chosen"]["change"] == pytest.approx(-19.5)
    assert document["answers"]["rejected"]["change"] == pytest.approx(3.9)
    for answer in ("chosen", "rejected"):
        found = document["answers"][answer]
        low, high = found["falls"]["interval"]
        clear = not low <= 0.5 <= high
        expected = (found["falls"]["rate"] > 0.5) == (found["change"] < 0) if clear else None
        assert found["as_predicted"] is expected
    out = entangle("compare", start, "--trainer-log", log).out
    assert "in training its mean fell by 19.5 nats" in " ".join(out.split())
    assert len([line for line in out.splitlines() if line.strip().split(" ")[0].isdecimal()]) == 10


def test_a_loss_without_a_reference_uses_the_log_probs(entangle: Entangle, start: str) -> None:
    entries = [
        {"step": step, "logps/chosen": -2 - step, "logps/rejected": -3.0, "rewards/chosen": 9} for step in range(4)
    ]
    log = write_log(Path("state.json"), entries)
    words = ("compare", start, "--trainer-log", log, "--loss", "simpo", "--beta", "2")
    document = json.loads(entangle(*words, "--format", "json").out)
    assert document["log"]["changes_from"] == "log_probs"
    assert [point["chosen_change"] for point in document["curves"]["train"]] == [0, -1, -2, -3]
    assert "They also hold the differences between batches" in " ".join(entangle(*words).out.split())


def test_rewards_without_a_reference_are_recognised(entangle: Entangle, start: str) -> None:
    """CPO and ORPO log beta times the log-probs. Divided by beta these are no changes."""
    entries = [entry(step, 0.1 * -(50 + step), 0.1 * -60, **{"logps/chosen": -(50 + step)}) for step in range(3)]
    outcome = entangle("compare", start, "--trainer-log", write_log(Path("state.json"), entries))
    assert outcome.code == 2
    assert "so the training had no reference" in outcome.err


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "No such file"),
        ("{", "no log_history with steps"),
        ('{"log_history": 3}', "no log_history with steps"),
        ('{"log_history": [{"loss": 1}]}', "no log_history with steps"),
        ('{"log_history": [{"step": 1, "loss": 2.0}]}', "none of 1 entries has rewards/chosen or logps/chosen"),
        ('{"log_history": [{"step": 1, "rewards/chosen": NaN}]}', "none of 1 entries has rewards/chosen"),
    ],
)
def test_another_file_is_refused(entangle: Entangle, start: str, content: str | None, found: str) -> None:
    if content is not None:
        Path("state.json").write_text(content)
    outcome = entangle("compare", start, "--trainer-log", "state.json")
    assert outcome.code == 3
    assert found in outcome.err


def test_a_log_belongs_to_one_run(entangle: Entangle, start: str) -> None:
    outcome = entangle("compare", start, start, "--trainer-log", "state.json")
    assert outcome.code == 2
    assert "--trainer-log with 2 runs" in outcome.err
