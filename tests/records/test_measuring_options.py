"""Options of a scan come back as words of a command, and a stored run suggests no others."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from entangle_cli.cli.option_groups import PairOptions
from entangle_cli.records.measuring_options import MEASURING_OPTIONS, measuring_options, option_words
from entangle_cli.records.settings import LoadingSettings, LoraSettings, ReadingSettings, ScanSettings


def test_defaults_need_no_words() -> None:
    assert measuring_options(ScanSettings()) == {}
    assert option_words({}) == ""


def test_everything_that_decides_tokens_and_weights_is_kept() -> None:
    settings = ScanSettings(
        reading=ReadingSettings("train[:5]", "main", "v1", "trl", {"chosen": "best answer"}, "all"),
        loading=LoadingSettings("v2", tokenizer="./other", chat_template=Path("a b.jinja"), template_date="2026-01-02"),
        truncation="keep_end",
        lora=LoraSettings(r=4, targets=("q_proj", "v_proj"), rslora=True),
        seed=3,
    )
    words = shlex.split(option_words(measuring_options(settings)))
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        "--split": "train[:5]",
        "--config-name": "main",
        "--data-revision": "v1",
        "--data-format": "trl",
        "--map": "chosen=best answer",
        "--ranked": "all",
        "--truncation": "keep_end",
        "--tokenizer": "./other",
        "--chat-template": "a b.jinja",
        "--template-date": "2026-01-02",
        "--model-revision": "v2",
        "--lora": "r=4,alpha=16,targets=q_proj+v_proj,rslora=true",
        "--seed": "3",
    }


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "--trust-remote-code",
        ["--trust-remote-code"],
        {"trust-remote-code": ["true"], "output": ["x"]},
        {"split": "train --trust-remote-code"},
    ],
)
def test_a_stored_run_suggests_no_other_options(stored: object) -> None:
    assert option_words(stored) == ""


def test_values_of_a_stored_run_are_quoted() -> None:
    assert option_words({"split": ["x; rm -rf ~"]}) == " --split 'x; rm -rf ~'"


def test_every_option_that_decides_which_pairs_are_seen_is_known() -> None:
    """The others are in the commands already, or let a checkpoint run code."""
    names = {field.name for field in fields(PairOptions)} - {"max_length", "trust_remote_code", "pickled_weights"}
    known = {name.replace("-", "_") for name in MEASURING_OPTIONS}
    assert names - {"column_map"} <= known
    assert "map" in known
