"""Findings on a trainer's file: every code with a file that has the fault and one that has not."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from pathlib import Path

import pytest

from entangle_cli.data.trainer_files.reading import read_trainer_file
from entangle_cli.diagnose.doctor import training_file
from entangle_cli.diagnose.doctor.training_file import file_findings

TRL = "model_name_or_path: m\ndataset_name: d\n"
AXOLOTL = "base_model: m\nmicro_batch_size: 4\nlearning_rate: 5e-7\n"
FACTORY = "finetuning_type: full\nstage: dpo\n"


def codes(tmp_path: Path, text: str, name: str = "train.yaml") -> list[str]:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return [found.code for found in file_findings(read_trainer_file(file))]


@pytest.mark.parametrize(
    ("code", "faulty", "sound"),
    [
        ("D-BETA", TRL + "beta: 0\n", TRL + "beta: 0.01\n"),
        ("D-REFUSED", AXOLOTL + "rl: ipo\nrl_beta: 0\n", AXOLOTL + "rl: ipo\nrl_beta: 0.3\n"),
        ("D-BETA", FACTORY + "pref_beta: 0.0\n", FACTORY + "pref_beta: 0.1\n"),
        ("D-LEARNING-RATE", TRL + "learning_rate: 0\n", TRL + "learning_rate: 5e-7\n"),
        ("D-LEARNING-RATE", FACTORY + "learning_rate: 0.0\n", FACTORY + "learning_rate: 5.0e-6\n"),
        ("D-BETA", TRL + "beta: -0.1\n", TRL + "beta: 0.1\n"),
        ("D-LEARNING-RATE", TRL + "learning_rate: -1e-6\n", TRL + "learning_rate: 1e-6\n"),
        ("D-LEARNING-RATE", TRL + "learning_rate: 5\n", TRL + "learning_rate: 1e-4\n"),
        ("D-REFUSED", TRL + "per_device_train_batch_size: 0\n", TRL + "per_device_train_batch_size: 1\n"),
        ("D-UNKNOWN-KEY", TRL + "reference_free: true\n", TRL),
        ("D-UNKNOWN-KEY", TRL + "ref_model_name_or_path: other\n", TRL),
        ("D-UNKNOWN-KEY", TRL + "evaluation_strategy: steps\n", TRL + "eval_strategy: steps\n"),
        ("D-UNREAD", AXOLOTL + "rl: dpo\nlearning_rat: 5e-7\n", AXOLOTL + "rl: dpo\n"),
        ("D-UNREAD", FACTORY + "learning_rat: 5e-7\n", FACTORY + "learning_rate: 5e-7\n"),
        ("D-LOSS", TRL + "loss_type: [sigmoid, aot]\n", TRL + "loss_type: [aot]\n"),
        (
            "D-NO-REFERENCE",
            TRL + "sync_ref_model: true\nref_model_mixup_alpha: 0.9\nref_model_sync_steps: 2\n",
            TRL + "sync_ref_model: true\nref_model_mixup_alpha: 0.9\nref_model_sync_steps: 32\n",
        ),
        (
            "D-NO-REFERENCE",
            TRL + "sync_ref_model: true\nref_model_mixup_alpha: 1.0\nref_model_sync_steps: 1\n",
            TRL + "sync_ref_model: true\nref_model_mixup_alpha: 0.6\nref_model_sync_steps: 64\n",
        ),
        (
            "D-LOSS-WEIGHTS",
            TRL + "loss_type: [sigmoid, sft]\nloss_weights: [1.0]\n",
            TRL + "loss_type: [sigmoid, sft]\nloss_weights: [1.0, 0.2]\nper_device_train_batch_size: 8\n",
        ),
        (
            "D-LOSS-WEIGHTS",
            AXOLOTL + "rl: dpo\ndpo_loss_type: [sigmoid]\ndpo_loss_weights: [1.0, 0.5]\n",
            AXOLOTL + "rl: dpo\ndpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [1.0, 0.5]\n",
        ),
        ("D-UNKNOWN-KEY", TRL + "learning_rte: 5e-7\n", TRL + "learning_rate: 5e-7\n"),
        ("D-UNKNOWN-KEY", TRL + "warmup_ratio: 0.1\n", TRL + "warmup_steps: 0.1\n"),
        ("D-IGNORED", TRL + "label_smoothing: 0.1\n", TRL + "label_smoothing: 0.1\nloss_type: robust\n"),
        ("D-IGNORED", TRL + "lora_r: 16\n", TRL + "lora_r: 16\nuse_peft: true\n"),
        ("D-IGNORED", AXOLOTL + "rl: dpo\nlora_r: 16\n", AXOLOTL + "rl: dpo\nadapter: lora\nlora_r: 16\n"),
        ("D-IGNORED", FACTORY + "lora_rank: 16\n", "finetuning_type: lora\nstage: dpo\nlora_rank: 16\n"),
        ("D-IGNORED", FACTORY + "simpo_gamma: 0.5\n", FACTORY + "pref_loss: simpo\nsimpo_gamma: 0.5\n"),
        (
            "D-IGNORED",
            AXOLOTL + "rl: dpo\nadapter: lora\nlora_model_dir: sft\n",
            AXOLOTL + "rl: simpo\nsimpo_gamma: 1\nadapter: lora\nlora_model_dir: sft\n",
        ),
        ("D-REFUSED", TRL + "loss_type: sigmod\n", TRL + "loss_type: sigmoid\n"),
        ("D-REFUSED", FACTORY + "pref_loss: sigmod\n", FACTORY + "pref_loss: sigmoid\n"),
        ("D-REFUSED", AXOLOTL + "rl: dpo\ndpo_loss_type: [sigmod]\n", AXOLOTL + "rl: dpo\ndpo_loss_type: [ipo]\n"),
        ("D-REFUSED", TRL + "bf16: true\nfp16: true\n", TRL + "bf16: true\n"),
        ("D-REFUSED", TRL + "load_best_model_at_end: true\n", TRL + "load_best_model_at_end: false\n"),
        ("D-REFUSED", TRL + "lr_scheduler_type: cosin\n", TRL + "lr_scheduler_type: cosine\n"),
        ("D-REFUSED", TRL + "loss_type: exo_pair\n", TRL + "loss_type: exo_pair\nlabel_smoothing: 0.001\n"),
        (
            "D-REFUSED",
            TRL + "f_divergence_type: js_divergence\nloss_type: apo_zero\n",
            TRL + "f_divergence_type: js_divergence\n",
        ),
        ("D-REFUSED", TRL + "dtype: bf16\n", TRL + "dtype: bfloat16\n"),
        ("D-REFUSED", TRL + "loss_type: ipo\nbeta: 0\n", TRL + "loss_type: ipo\nbeta: 0.1\n"),
        (
            "D-REFUSED",
            TRL + "sync_ref_model: true\nuse_peft: true\n",
            TRL + "sync_ref_model: true\n",
        ),
        (
            "D-REFUSED",
            TRL + "use_peft: true\nlora_target_modules: [q_proj, lm_head]\n",
            TRL + "use_peft: true\nlora_target_modules: [q_proj]\n",
        ),
        ("D-REFUSED", AXOLOTL.replace("learning_rate: 5e-7\n", "") + "rl: dpo\n", AXOLOTL + "rl: dpo\n"),
        ("D-REFUSED", AXOLOTL + "rl: simpo\n", AXOLOTL + "rl: simpo\nsimpo_gamma: 0.5\n"),
        (
            "D-REFUSED",
            AXOLOTL + "rl: dpo\nrpo_alpha: 0.5\n",
            AXOLOTL + "rl: dpo\ndpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [1.0, 0.5]\n",
        ),
        (
            "D-ACCUMULATION",
            TRL + "loss_type: aot\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 16\n",
            TRL + "loss_type: sigmoid\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 16\n",
        ),
        (
            "D-ACCUMULATION",
            TRL + "loss_type: [sigmoid, sft]\ngradient_accumulation_steps: 8\n",
            FACTORY + "pref_ftx: 0.5\ngradient_accumulation_steps: 8\n",
        ),
        ("D-ATTENTION", TRL + "attn_implementation: flash_attention_2\n", TRL + "attn_implementation: sdpa\n"),
        ("D-ATTENTION", AXOLOTL + "rl: dpo\nflash_attention: true\n", AXOLOTL + "rl: dpo\nsdp_attention: true\n"),
        ("D-ATTENTION", FACTORY + "flash_attn: fa2\n", FACTORY + "flash_attn: sdpa\n"),
    ],
)
def test_a_fault_is_found_and_a_sound_file_has_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, faulty: str, sound: str
) -> None:
    monkeypatch.setattr(training_file, "find_spec", lambda _: None)
    assert code in codes(tmp_path, faulty)
    assert codes(tmp_path, sound) == []


def test_an_installed_kernel_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_file, "find_spec", lambda _: object())
    assert codes(tmp_path, TRL + "attn_implementation: flash_attention_2\n") == []


@pytest.mark.parametrize(
    ("words", "is_refused"),
    [
        ("dpo.py --model_name_or_path m --bf16", True),
        ("dpo.py --model_name_or_path m --bf16 true", False),
        ("dpo.py --model_name_or_path m --loss_type sigmoid --loss_weights 1.0 0.5", True),
        ("dpo.py --model_name_or_path m --loss_type sigmoid sft --loss_weights 1.0 0.5", False),
        ("kto.py --model_name_or_path m --per_device_train_batch_size 1", True),
        ("kto.py --model_name_or_path m --per_device_train_batch_size 4", False),
        ("kto.py --model_name_or_path m --loss_type apo_zero_unpaired --per_device_train_batch_size 1", False),
    ],
)
def test_command_lines_that_trl_refuses(tmp_path: Path, words: str, is_refused: bool) -> None:
    assert ("D-REFUSED" in codes(tmp_path, f"python {words}\n", "train.sh")) is is_refused


@pytest.mark.parametrize(
    ("words", "severity"),
    [
        ("--loss_type aot --per_device_train_batch_size 1 --gradient_accumulation_steps 16", "warning"),
        ("--loss_type aot --per_device_train_batch_size 8 --gradient_accumulation_steps 2", "note"),
        ("--loss_type sigmoid sft --gradient_accumulation_steps 2", "note"),
        ("--loss_type sigmoid sft --per_device_train_batch_size 32", None),
    ],
)
def test_how_bad_accumulation_is(tmp_path: Path, words: str, severity: str | None) -> None:
    file = tmp_path / "train.sh"
    file.write_text(f"accelerate launch --num_processes 8 dpo.py --model_name_or_path m {words}\n", encoding="utf-8")
    found = {one.code: one.severity for one in file_findings(read_trainer_file(file))}
    assert found.get("D-ACCUMULATION") == severity


@pytest.mark.parametrize(("trl", "is_broken"), [("0.19.1", False), ("0.24.0", True), ("1.16.0", False)])
def test_versions_of_trl_that_lose_llama_factorys_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trl: str, is_broken: bool
) -> None:
    monkeypatch.setattr(training_file, "version", lambda name: trl if name == "trl" else installed_version(name))
    assert ("D-IGNORED" in codes(tmp_path, FACTORY + "pref_loss: ipo\n")) is is_broken
    assert codes(tmp_path, FACTORY + "pref_loss: sigmoid\n") == []
