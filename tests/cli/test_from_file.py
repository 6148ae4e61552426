"""`--from`: a trainer's file as options of a command."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.cli.app import run
from entangle_cli.cli.lora import lora_settings
from entangle_cli.records.measuring_options import lora_text
from entangle_cli.records.settings import LoraSettings

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"

TRL = f"""
model_name_or_path: {SAMPLE / "model"}
datasets:
  - path: json
    data_files: {SAMPLE / "long_ending.jsonl"}
    split: "train[:3]"
  - path: json
    data_files: {SAMPLE / "one_token.jsonl"}
    split: "train[:2]"
loss_type: [sigmoid, sft]
loss_weights: [1.0, 0.5]
beta: 0.2
learning_rate: 5e-5
lr_scheduler_type: cosine
num_train_epochs: 2
max_length: 256
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
deepspeed: ds.json
logging_steps: 5
"""


@pytest.fixture(autouse=True)
def train_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "dpo.yaml"
    file.write_text(TRL, encoding="utf-8")
    return file


def scanned(arguments: list[str], folder: Path) -> dict[str, Any]:
    file = folder / "run.json"
    assert run(["scan", *arguments, "--json", str(file), "-o", str(folder / "run")]) == 0
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def taken_command(told: str) -> list[str]:
    """The words of the printed command, without the files that the test's own command writes."""
    line = next(line for line in told.splitlines() if "the same without the file:" in line)
    words = shlex.split(line.partition("the same without the file: ")[2])
    for option in ("--json", "-o"):
        place = words.index(option)
        del words[place : place + 2]
    return words


def test_a_scan_takes_everything_from_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = scanned(["--from", "dpo.yaml"], tmp_path)
    told = capsys.readouterr().err
    assert document["summary"]["pairs"] == 5
    assert document["summary"]["loss"] == {"name": "sigmoid_sft", "beta": 0.2, "options": {"nll_weight": 0.5}}
    assert "a training with TRL (dpo)" in told
    assert "not taken: deepspeed: ds.json" in told
    assert "this command does not use" not in told or "learning_rate" not in told.partition("does not use")[2]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["configuration"]["options"]["loss"] == "dpo.yaml"
    assert [part["slice"] for part in manifest["identity"]["data"]["sources"]] == ["train[:3]", "train[:2]"]


def test_the_printed_command_gives_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    by_file = scanned(["--from", "dpo.yaml"], tmp_path / "a")
    words = taken_command(capsys.readouterr().err)
    assert words[:2] == ["entangle", "scan"]
    by_command = scanned(words[2:], tmp_path / "b")
    assert by_command["pairs"] == by_file["pairs"]


def test_the_command_line_takes_precedence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = scanned(["--from", "dpo.yaml", "--loss", "ipo", "--limit", "2"], tmp_path)
    # Numbers of another loss are not those of the file's loss.
    assert (document["summary"]["loss"]["name"], document["summary"]["loss"]["beta"]) == ("ipo", 0.1)
    words = taken_command(capsys.readouterr().err)
    assert words[:6] == ["entangle", "scan", "--loss", "ipo", "--limit", "2"]
    assert "--beta" not in words
    (tmp_path / "again").mkdir()
    assert scanned(words[2:], tmp_path / "again")["pairs"] == document["pairs"]


def test_beta_alone_keeps_the_files_loss(tmp_path: Path) -> None:
    document = scanned(["--from", "dpo.yaml", "--beta", "0.7", "--limit", "2"], tmp_path)
    assert document["summary"]["loss"] == {"name": "sigmoid_sft", "beta": 0.7, "options": {"nll_weight": 0.5}}


def test_a_split_on_the_command_line_replaces_those_of_all_data_sets(tmp_path: Path) -> None:
    assert scanned(["--from", "dpo.yaml", "--split", "train[:1]"], tmp_path)["summary"]["pairs"] == 2


def test_other_data_on_the_command_line_have_no_split_of_the_file(tmp_path: Path) -> None:
    arguments = ["--from", "dpo.yaml", str(SAMPLE / "model"), str(SAMPLE / "short_ending.jsonl"), "--limit", "4"]
    assert scanned(arguments, tmp_path)["summary"]["pairs"] == 4


def test_a_forecast_takes_the_optimizers_settings(tmp_path: Path) -> None:
    file = tmp_path / "forecast.json"
    assert run(["forecast", "--from", "dpo.yaml", "--quiet", "--json", str(file)]) == 0
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["optimizer"]["learning_rate"] == 5e-5
    assert document["run"]["lr_scheduler_type"] == "cosine"
    # 5 pairs in steps of 4 are 2 steps, for 2 epochs.
    assert document["run"]["num_steps"] == 4


def test_inspect_uses_the_model_for_its_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "--from", "dpo.yaml"]) == 0
    assert "prompt, tokens" in capsys.readouterr().out


def test_an_unknown_loss_needs_one_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = TRL.replace("[sigmoid, sft]", "[sigmoid, bco_pair]")
    (tmp_path / "mpo.yaml").write_text(text, encoding="utf-8")
    assert run(["scan", "--from", "mpo.yaml"]) == 2
    assert "loss_type ['sigmoid', 'bco_pair']" in capsys.readouterr().err
    assert scanned(["--from", "mpo.yaml", "--loss", "sigmoid", "--limit", "2"], tmp_path)["summary"]["pairs"] == 2


def test_a_file_in_a_configuration_counts_too(tmp_path: Path) -> None:
    (tmp_path / "entangle.toml").write_text('from = "dpo.yaml"\n', encoding="utf-8")
    assert scanned(["--limit", "2"], tmp_path)["summary"]["loss"]["name"] == "sigmoid_sft"


def test_without_model_and_data_the_message_is_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dpo.yaml").write_text("loss_type: ipo\nbeta: 0.1\n", encoding="utf-8")
    assert run(["scan", "--from", "dpo.yaml"]) == 2
    assert "MODEL" in capsys.readouterr().err


@pytest.mark.parametrize(
    "lora",
    [
        LoraSettings(),
        LoraSettings(64, 128, ("q_proj", "v_proj"), 0.05, rslora=True, dora=True, modules_to_save=("lm_head",)),
        LoraSettings(4, 4, ("all-linear",)),
    ],
)
def test_an_adapter_is_written_as_the_option_reads_it(lora: LoraSettings) -> None:
    assert lora_settings(lora_text(lora)) == lora


def test_a_file_that_trl_refuses_is_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = tmp_path / "refused.yaml"
    refused.write_text(Path("dpo.yaml").read_text(encoding="utf-8") + "bf16: true\nfp16: true\n", encoding="utf-8")
    assert scanned(["--from", str(refused), "--limit", "2"], tmp_path)["summary"]["pairs"] == 2
    assert "TRL refuses it: At most one of fp16 and bf16 can be True" in " ".join(capsys.readouterr().err.split())


def test_the_printed_command_has_what_the_command_line_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MODEL and DATA come from the command line, the rest from the file."""
    own = [str(SAMPLE / "model"), str(SAMPLE / "short_ending.jsonl"), "--limit", "3", "--from=dpo.yaml"]
    document = scanned(own, tmp_path)
    words = taken_command(capsys.readouterr().err)
    assert words[2:6] == own[:4]
    assert "--from=dpo.yaml" not in words
    (tmp_path / "again").mkdir()
    assert scanned(words[2:], tmp_path / "again")["pairs"] == document["pairs"]


def test_bfloat16_weights_of_a_training_are_not_those_of_a_forecast(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bf16.yaml"
    text = Path("dpo.yaml").read_text(encoding="utf-8")
    for dtype, is_said in (("bfloat16", True), ("float32", False)):
        lines = [line for line in text.splitlines() if not line.startswith("dtype:")]
        file.write_text("\n".join([*lines, f"dtype: {dtype}", ""]), encoding="utf-8")
        assert run(["forecast", "--from", str(file), "--limit", "2"]) == 0
        assert ("not taken: dtype: bfloat16" in capsys.readouterr().err) is is_said
