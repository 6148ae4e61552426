"""The Python calls: same numbers as the commands, from objects and from names, and no printed output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import entangle_cli
from entangle_cli import LoadingSettings, LossSettings, Run, ScanSettings
from entangle_cli.errors import NothingToJudgeError, UsageError
from tests.cli.conftest import LONG, MODEL, Entangle

PUBLIC = {
    *(
        "scan",
        "read",
        "gate",
        "compare",
        "filter_rows",
        "forecast",
        "rehearse",
        "tokens",
        "inspect",
        "Run",
        "PairRecord",
    ),
    *(
        "ScanSettings",
        "ReadingSettings",
        "LoadingSettings",
        "LossSettings",
        "UntilDecided",
        "WorkerSettings",
        "ForecastSettings",
    ),
    *("RehearsalSettings", "LoraSettings", "FilterRules", "EntangleError", "EntangleCallback", "__version__"),
}
SETTINGS = ScanSettings(limit=6)
ROWS = [json.loads(line) for line in LONG.read_text().splitlines()[:6]]


@pytest.fixture(scope="module")
def run() -> Run:
    return entangle_cli.scan(str(MODEL), LONG, SETTINGS)


def test_public_names() -> None:
    assert set(entangle_cli.__all__) == PUBLIC
    assert all(hasattr(entangle_cli, name) for name in PUBLIC)


def test_a_run_is_a_sequence_of_its_pairs(run: Run) -> None:
    assert isinstance(run, Sequence)
    assert len(run) == 6
    assert [pair.index for pair in run] == list(range(6))
    assert run[-1] == run[5] == list(run)[5]
    assert run[1:3] == [run[1], run[2]]
    assert run.pair(4) == run[4]
    with pytest.raises(IndexError):
        run[6]
    with pytest.raises(UsageError, match="row 6"):
        run.pair(6)


def test_another_loss_needs_no_second_scan(run: Run, entangle: Entangle) -> None:
    seen = run.under("simpo", beta=2.0, gamma=0.5)
    assert seen.loss == LossSettings("simpo", 2.0, {"gamma": 0.5})
    entangle("scan", MODEL, LONG, "--limit", "6", "-o", "run", "-q", "--loss", "simpo", "--beta", "2", "--gamma", "0.5")
    document = json.loads(entangle("report", "run", "--format", "json").out)
    assert [pair.movement for pair in seen] == [pair["movement"] for pair in document["pairs"]]
    assert json.loads(json.dumps(seen.summary)) == document["summary"]
    assert [pair.cosine for pair in run] == [pair.cosine for pair in seen]
    for wrong in (lambda: run.under("dpoo"), lambda: run.under(LossSettings(), beta=1.0)):
        with pytest.raises(UsageError):
            wrong()


def test_the_worst_come_first(run: Run) -> None:
    slack = [pair.slack for pair in run.worst(3)]
    assert slack == sorted(pair.slack for pair in run if pair.slack is not None)[:3]


def test_a_model_and_rows_that_are_loaded_give_the_same_numbers(run: Run) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pair = (model, AutoTokenizer.from_pretrained(MODEL))
    for rows in (ROWS, datasets.Dataset.from_list(ROWS)):
        found = entangle_cli.scan(pair, rows)
        assert [(each.pair_id, each.cosine, each.movement) for each in found] == [
            (each.pair_id, each.cosine, each.movement) for each in run
        ]
        assert found.folder is None
        assert found.identity.num_rows == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_model_in_memory_is_restored() -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).train()
    model.lm_head.eval()
    modes = [module.training for module in model.modules()]
    entangle_cli.scan((model, AutoTokenizer.from_pretrained(MODEL)), ROWS[:1])
    assert [module.training for module in model.modules()] == modes


def test_an_adapter_in_memory_is_measured_as_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    adapted = get_peft_model(
        base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(tmp_path / "adapter")
    settings = ScanSettings(loading=LoadingSettings(base_model=str(MODEL)))
    stored = entangle_cli.scan(str(tmp_path / "adapter"), LONG, replace(settings, limit=3))
    found = entangle_cli.scan((adapted, AutoTokenizer.from_pretrained(MODEL)), ROWS[:3])
    assert found.identity.settings["parameters"] == stored.identity.settings["parameters"] == "adapter"
    assert [pair.cosine for pair in found] == pytest.approx([pair.cosine for pair in stored], abs=1e-6)


def test_rows_can_be_a_one_time_iterator(run: Run) -> None:
    pair = (AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), AutoTokenizer.from_pretrained(MODEL))
    found = entangle_cli.scan(pair, iter(ROWS))
    assert [each.cosine for each in found] == [each.cosine for each in run]


def test_objects_that_cannot_be_measured_are_refused() -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    pair = (model, AutoTokenizer.from_pretrained(MODEL))
    with pytest.raises(UsageError, match="dtype float32, but the model's weights are bfloat16"):
        entangle_cli.scan(pair, ROWS)
    with pytest.raises(UsageError, match="as the model"):
        entangle_cli.scan(model, ROWS)
    with pytest.raises(entangle_cli.EntangleError, match="no rows"):
        entangle_cli.scan(pair, [], ScanSettings(dtype="bfloat16"))


def test_a_scan_of_objects_can_be_written_and_resumed(tmp_path: Path, run: Run) -> None:
    model = (AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), AutoTokenizer.from_pretrained(MODEL))
    for _ in range(2):
        written = entangle_cli.scan(model, ROWS, output=tmp_path / "run")
        assert written.folder == tmp_path / "run"
        assert [pair.cosine for pair in written] == [pair.cosine for pair in run]
    with pytest.raises(UsageError, match="different data"):
        entangle_cli.scan(model, ROWS[:3], output=tmp_path / "run")


def test_the_gate_says_what_it_judged(run: Run) -> None:
    verdict = run.gate("both_fall_rate > 0.999")
    assert (verdict.outcome.value, verdict.scope.rows_read if verdict.scope else None) == ("passed", 6)
    assert "--limit 6" in verdict.scope.sentence if verdict.scope else False
    assert run.gate("pairs > 0").outcome.value == "failed"
    with pytest.raises(UsageError, match="without a baseline"):
        run.gate("both_fall_rate_increase > 0.1")


def test_a_part_is_not_judged(entangle: Entangle, tmp_path: Path) -> None:
    entangle("scan", MODEL, LONG, "--limit", "6", "-o", "run", "-q")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    (tmp_path / "run/manifest.json").write_text(json.dumps({**manifest, "status": "partial"}))
    with pytest.raises(NothingToJudgeError, match="is not complete"):
        entangle_cli.read(tmp_path / "run").gate("both_fall_rate > 0.5")


def test_reports_match_the_command(run: Run, entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "--limit", "6", "-o", "run", "-q")
    stored = entangle_cli.read("run")
    with pytest.raises(UsageError, match="the run that is judged"):
        stored.gate("both_fall_rate_increase > 0.1", baseline=stored)
    for output_format in ("html", "markdown", "json", "jsonl", "csv"):
        assert stored.report(output_format) == entangle("report", "run", "--format", output_format).out
    assert stored.report() == entangle("report", "run").out
    assert "Run    " not in run.report()  # it has no folder
    with pytest.raises(UsageError, match="report format 'pdf'"):
        run.report("pdf")


def test_a_data_frame_has_a_column_for_each_field(run: Run) -> None:
    frame = run.to_pandas()
    assert list(frame.columns) == list(entangle_cli.records.pair.PAIR_FIELDS)
    np.testing.assert_array_equal(frame["cosine"], [pair.cosine for pair in run])


def test_a_notebook_shows_the_verdict_and_a_bar(run: Run) -> None:
    assert run.verdict in repr(run)
    html = run._repr_html_()
    assert "<script" not in html
    assert html.count("<span") == len({pair.movement for pair in run if pair.movement})


def test_two_runs_are_compared(run: Run) -> None:
    document = entangle_cli.compare(run, run.under("ipo"))
    assert document["whole"]["matched"] == 6
    with pytest.raises(UsageError, match="fewer than two runs"):
        entangle_cli.compare(run)


def test_rows_are_filtered(run: Run, tmp_path: Path, entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "-o", "run", "-q", "--limit", "6")
    rules = entangle_cli.FilterRules(keep_lowest=0.5, by="cosine")
    result = entangle_cli.filter_rows(entangle_cli.read("run"), LONG, tmp_path / "kept.jsonl", rules)
    assert result["kept"] == 3
    kept = [json.loads(line)["chosen"] for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    lowest = sorted(run, key=lambda pair: pair.cosine or 0.0)[:3]
    assert sorted(kept) == sorted(ROWS[pair.index]["chosen"] for pair in lowest)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    entangle_cli.scan(str(MODEL), LONG, ScanSettings(limit=2)).gate("pairs > 5")
    entangle_cli.inspect(str(LONG), limit=3)
    entangle_cli.forecast(str(MODEL), str(LONG), ScanSettings(limit=2))
    entangle_cli.tokens(str(MODEL), str(LONG), 0)
    assert capfd.readouterr() == ("", "")
