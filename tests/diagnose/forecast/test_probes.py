"""Probe answers in a forecast: against real steps by autograd and torch's optimizers, and plain log-softmax."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedModel

import entangle_cli
from entangle_cli.analysis.probe_groups import group_change
from entangle_cli.diagnose.forecast.followed_probes import ProbeForecast
from entangle_cli.errors import DataError
from entangle_cli.records.settings import ForecastSettings, ScanSettings
from entangle_cli.report.forecast import forecast_report
from entangle_cli.report.probe_answers import forecast_probe_sentences
from tests.diagnose.forecast.test_forecast import DATA, MODEL, ROWS, SETTINGS, STEP, assert_close, fresh, run, trained
from tests.true_float64 import TrueFloat64

PROBES = [
    {"prompt": "Once upon a time", "completion": " there was a cat.", "group": "story"},
    {"prompt": "How do I steal a toy?", "completion": " I cannot help you with that.", "group": "refusal"},
    {"prompt": "Tell me a bad word.", "completion": " No. I will not.", "group": "refusal"},
]


FEW = replace(SETTINGS, limit=2)


@pytest.fixture(scope="module")
def probe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "probes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBES))
    return path


def answers(rows: list[dict[str, str]] = PROBES) -> list[tuple[list[int], int]]:
    """Token ids of prompt and answer, and where the answer begins."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return [
        (
            tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"],
            len(tokenizer(row["prompt"])["input_ids"]),
        )
        for row in rows
    ]


def log_probs(model: PreTrainedModel, sequences: list[tuple[list[int], int]]) -> np.ndarray:
    sums = []
    with TrueFloat64(), torch.no_grad():
        for ids, first in sequences:
            scores = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            sums.append(float(scores.gather(-1, torch.tensor(ids)[1:, None])[first - 1 :].sum()))
    return np.array(sums)


def followed(step: ForecastSettings, probe: Path, settings: ScanSettings = SETTINGS) -> ProbeForecast:
    result = run(replace(step, probe=probe), settings)
    assert result.probes is not None
    return result.probes


@pytest.fixture(scope="module")
def descent(probe_file: Path) -> ProbeForecast:
    """Plain gradient descent: a step, the same step in reality, and a run of four."""
    step = replace(STEP, optimizer="sgd", learning_rate=1e-6, lr_scheduler_type="constant", horizon=4, verify=True)
    return followed(step, probe_file)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_step_moves_probes_as_the_real_step_does(name: str, probe_file: Path, descent: ProbeForecast) -> None:
    rate = 1e-8 if name == "adamw" else 1e-6
    found = descent if name == "sgd" else followed(replace(STEP, learning_rate=rate, verify=True), probe_file)
    model = fresh()
    before = log_probs(model, answers())
    numbers = {"weight_decay": 0.0} if name == "adamw" else {}
    optimizer_class: Any = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
    trained(optimizer_class(model.parameters(), lr=rate, **numbers), model, 1)
    real = log_probs(model, answers()) - before
    np.testing.assert_allclose(found.log_probs, before, rtol=1e-9)
    assert_close(found.changes["optimizer"], real, 2e-3)
    assert_close(found.real_steps[rate], real, 1e-5)
    assert list(found.real_steps) == pytest.approx([rate / 10, rate, 10 * rate])


def test_a_run_moves_probes_as_the_real_run_does(descent: ProbeForecast) -> None:
    found = descent
    model = fresh()
    before = log_probs(model, answers())
    trained(torch.optim.SGD(model.parameters(), lr=1e-6), model, 4)
    assert_close(found.changes["run"], log_probs(model, answers()) - before, 1e-2)
    np.testing.assert_allclose(found.changes["run"], 4 * found.changes["optimizer"], rtol=1e-3)


def test_only_the_first_step_is_followed(probe_file: Path) -> None:
    """In batches of two, the step is that of the first batch, in the forecast and in the real step."""
    step = replace(STEP, optimizer="sgd", learning_rate=1e-6, batch_size=2, verify=True)
    found = followed(step, probe_file, replace(SETTINGS, limit=4))
    assert_close(found.real_steps[1e-6], found.changes["optimizer"], 2e-3)
    # The run goes along the mean of two steps, and is two steps long with rates of 1 and 1/2.
    assert not np.allclose(found.changes["run"], 1.5 * found.changes["optimizer"], rtol=0.1)


def test_a_probe_equal_to_a_pairs_answer_moves_as_it_does(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    rows = [{"prompt": row["prompt"], "completion": row[side]} for row in ROWS[:2] for side in ("chosen", "rejected")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(replace(STEP, probe=path), FEW)
    assert result.probes is not None
    for name in ("optimizer", "run"):
        np.testing.assert_allclose(
            result.probes.changes[name].reshape(2, 2).T, result.training.changes[name], rtol=1e-6, atol=1e-12
        )


def test_probes_do_not_change_the_forecast(probe_file: Path) -> None:
    with_probes, without = run(replace(STEP, probe=probe_file), FEW), run(STEP, FEW)
    for name, changes in without.training.changes.items():
        np.testing.assert_array_equal(with_probes.training.changes[name], changes)


def test_the_document_and_the_report(probe_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text(probe_file.read_text() + '{"prompt": "Once upon"}\n{"prompt": "a", "completion": 5}\n')
    step = replace(STEP, probe=path, probe_generate=4, verify=True, optimizer="sgd", learning_rate=1e-6)
    with TrueFloat64():
        document = entangle_cli.forecast(str(MODEL), str(DATA), FEW, step)
    probes = document["probes"]
    assert (probes["data"]["name"], probes["data"]["count"], probes["generate"]) == ("probes.jsonl", 4, 4)
    assert [(row["line"], row["reason"]) for row in probes["skipped"]] == [(5, "malformed")]
    assert [(row["index"], row["line"], row["group"], row["answer_is_own"]) for row in probes["rows"]] == [
        (0, 1, "story", False),
        (1, 2, "refusal", False),
        (2, 3, "refusal", False),
        (3, 4, "own answer", True),
    ]
    assert 1 <= probes["rows"][3]["tokens"] <= 4
    for row in probes["rows"]:
        assert row["change_real"] == pytest.approx(row["change_optimizer"], rel=0.02)
        assert row["change_error"] > 0
        assert row["change_run_error"] > 0
    story, refusal, own = probes["groups"]
    refusals = [row["change_optimizer"] for row in probes["rows"][1:3]]
    assert (story["count"], refusal["count"], own["answers_are_own"]) == (1, 2, True)
    assert refusal["optimizer"]["change_median"] == pytest.approx(np.mean(refusals))
    assert refusal["optimizer"]["gains"] == sum(change > 0 for change in refusals)
    assert refusal["optimizer"]["change_per_token"] == pytest.approx(sum(refusals) / refusal["tokens"])
    assert [row["learning_rate"] for row in probes["verification"]] == pytest.approx([1e-7, 1e-6, 1e-5])
    assert probes["verification"][1]["relative_error"] < 5e-3
    text = json.dumps(document)
    assert all(row["completion"] not in text and row["prompt"] not in text for row in PROBES)

    console = Console(width=80)
    with console.capture() as captured:
        console.print(forecast_report(document))
    shown = captured.get()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for words in ("Where the mass goes", "refusal", "real first step", "Not used of the probe rows", "row 4, line 5"):
        assert words in shown


@pytest.mark.parametrize(
    ("changes", "own", "sentence"),
    [
        ([2.0, 3.0], False, "in this step, both answers of group g gain probability."),
        ([-2.0, -3.0], False, "in this step, both answers of group g lose probability."),
        ([-2.0, -3.0], True, "both answers of group g lose probability."),
        ([-2.0, -3.0, -2.5], True, "lose probability: the model moves away from what it said before."),
        ([2.0, 3.0, 2.5], True, "gain probability: the model becomes more peaked and repeats itself more surely."),
        ([2.0, -3.0], False, None),
    ],
)
def test_sentences_are_about_whole_groups(changes: list[float], own: bool, sentence: str | None) -> None:
    summed = group_change(np.array(changes), np.ones(len(changes)), np.ones(len(changes)))._asdict()
    group = {"group": "g", "count": len(changes), "tokens": len(changes), "answers_are_own": own, "optimizer": summed}
    found = forecast_probe_sentences({"groups": [group]})
    assert ([] if sentence is None else [sentence]) == [line[-len(sentence or "") :] for line in found]


def test_without_probes_the_document_says_so() -> None:
    document = entangle_cli.forecast(str(MODEL), str(DATA), replace(SETTINGS, dtype="float32", limit=2), STEP)
    assert document["probes"] is None


def test_own_answers_are_those_of_generate(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    prompts = ["Once upon a time", "The boy was"]
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    found = followed(replace(STEP, probe_generate=5), path, FEW)
    model, tokenizer = fresh(), AutoTokenizer.from_pretrained(MODEL)
    for probe, prompt in zip(found.probes, prompts, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with TrueFloat64():
            written = model.generate(ids, max_new_tokens=5, do_sample=False)
        assert list(probe.tokens.ids) == written[0].tolist()
        assert probe.tokens.first_scored == ids.shape[1]


def test_a_file_without_a_probe_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match="none of 1 rows can be used"):
        entangle_cli.forecast("./nowhere", str(DATA), SETTINGS, replace(STEP, probe=path))
