"""`--lora`: its words, a scan with it, and the run of all weights beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entangle_cli.cli.lora import lora_settings
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LoraSettings
from tests.cli.conftest import LONG, MODEL, Entangle


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("r=64,alpha=128", LoraSettings(64, 128)),
        ("r=64, alpha=128, targets=q_proj+v_proj", LoraSettings(64, 128, ("q_proj", "v_proj"))),
        ("targets=all-linear,dropout=0.05", LoraSettings(8, 16, ("all-linear",), 0.05)),
        ("rslora=true,dora=False", LoraSettings(rslora=True)),
        (
            "dora=true,modules_to_save=lm_head+embed_tokens",
            LoraSettings(dora=True, modules_to_save=("lm_head", "embed_tokens")),
        ),
    ],
)
def test_adapters_in_words(text: str, settings: LoraSettings) -> None:
    assert lora_settings(text) == settings


@pytest.mark.parametrize(
    "text",
    ["", "r", "r=", "r=0", "r=1.5", "alpha=-1", "dropout=1", "rank=8", "r=8,r=8", "dora=yes", "r=x", "targets="],
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--lora"):
        lora_settings(text)


def test_a_scan_with_a_planned_adapter_names_it_and_the_run_of_all_weights(entangle: Entangle) -> None:
    words = ("scan", MODEL, LONG, "--limit", "12")
    lora = ("--lora", "r=4,alpha=8,targets=q_proj+down_proj", "--seed", "3")
    alone = entangle(*words, *lora, "-o", "runs/adapter", "--json", "adapter.json")
    assert alone.code == 0
    named = "a planned LoRA adapter on q_proj, down_proj of rank 4, alpha 8, initialised with seed 3"
    assert named in " ".join(alone.out.split())
    assert "with all weights" not in alone.out
    document = json.loads(Path("adapter.json").read_text())
    # B of rank 4: 8 rows of 64 and 8 of 64 or so; A counts as a parameter, too.
    assert (
        0 < document["manifest"]["plan"]["num_parameters"] < document["manifest"]["plan"]["num_model_parameters"] / 20
    )
    # Without a sample, the seed draws no rows.
    assert entangle(*words, "-o", "runs/whole", "-q").code == 0
    beside = entangle("report", "runs/adapter")
    verdict = entangle("report", "runs/whole").out.split("\n\n")[1].strip()
    assert " ".join(f"with all weights: {verdict} entangle compare runs/whole runs/adapter".split()) in " ".join(
        beside.out.split()
    )
    # Other rows are not the same pairs, so they are not compared.
    assert entangle("scan", MODEL, LONG, "--limit", "11", "-o", "runs/whole-2", "-q").code == 0
    assert "runs/whole-2" not in entangle("report", "runs/adapter").out
    # A damaged neighbour does not break the report.
    next(Path("runs/whole/pairs").iterdir()).unlink()
    damaged = entangle("report", "runs/adapter")
    assert damaged.code == 0
    assert "with all weights" not in damaged.out


def test_suggested_commands_keep_the_adapter(entangle: Entangle) -> None:
    words = ("--limit", "4", "--lora", "r=4,alpha=8,targets=all-linear", "--truncation", "keep_end", "--seed", "2")
    assert entangle("scan", MODEL, LONG, *words, "-q", "-o", "run").code == 0
    shown = entangle("report", "run").out
    command = next(line for line in shown.splitlines() if "entangle forecast" in line)
    for option in ("--truncation keep_end", "--lora r=4,alpha=8,targets=all-linear", "--seed 2"):
        assert option in command
    assert "entangle tokens" not in shown + entangle("show", "run", "--row", "0").out
