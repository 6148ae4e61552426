"""All commands and options. A change here affects users and belongs in CHANGELOG.md."""

from __future__ import annotations

import re
import shlex

import pytest
import typer.main

from entangle_cli.cli.app import app, run
from entangle_cli.cli.help import COMMANDS, EXAMPLES, OPTIONS, SUMMARIES, option_group

READS_PAIRS = {
    "MODEL", "DATA...", "--split", "--config-name", "--data-revision", "--data-format", "--map", "--ranked",
    "--max-row-bytes",
    "--max-length", "--truncation", "--tokenizer", "--chat-template", "--template-date", "--model-revision",
    "--base-model", "--attn-implementation", "--trust-remote-code", "--pickled-weights",
}  # fmt: skip
"""Options of every command that reads pairs. The same options give the same tokens in all of them."""

COMMON = {"--debug", "--help", "-h"}
SURFACE = {
    "scan": {
        *READS_PAIRS, "--output", "-o", "--json", "--dtype", "--device", "--limit",
        "--sample", "--seed", "--batch-tokens", "--parameters", "--loss", "--beta", "--fail-if", "--strict",
        "--quiet", "-q", "--dry-run",
        "--activation-checkpointing", "--device-map", "--gamma", "--loss-option",
        "--ref-model", "--lora", "--write-reference", "--unshared-cosine",
        "--checkpoints",
        "--layers", "--include-text", "--known", "--deadline",
        "--shard", "--until-decided", "--confidence",
        "--from",
        "--workers", "--gpus-per-worker", "--threads-per-worker", "--ray-address",
    },
    "schema": set(),
    "demo": {"[FOLDER]"},
    "explain": {"[NAME]"},
    "merge": {"RUN ...", "--output", "-o"},
    "compare": {"RUN RUN ...", "--trainer-log", "--format", "--loss", "--beta", "--gamma", "--loss-option"},
    "tokens": {
        *READS_PAIRS, "--row", "--pair-in-row", "--quiet", "-q", "--format", "--json", "--npy",
        "--loss", "--beta", "--gamma",
        "--loss-option", "--dtype", "--device",
        "--parameters",
    },
    "show": {
        "[RUN]", "--row", "--line", "--pair-in-row", "--data", "--format",
        "--loss", "--beta", "--gamma", "--loss-option",
    },
    "report": {
        "[RUN]", "--format", "--write", "--verbose", "-v", "--fail-if", "--losses",
        "--loss", "--beta", "--gamma", "--loss-option",
    },
    "forecast": {
        *READS_PAIRS, "--eval-data", "--eval-split", "--optimizer", "--learning-rate", "--weight-decay",
        "--state", "--max-grad-norm", "--batch-size", "--gradient-accumulation-steps", "--horizon",
        "--lr-scheduler-type", "--warmup-steps", "--verify", "--ref-model", "--from", "--epochs", "--lora",
        "--probe", "--probe-generate",
        "--loss", "--beta", "--gamma", "--loss-option", "--json", "--dtype", "--device",
         "--limit", "--sample", "--seed",
        "--parameters", "--quiet", "-q",
    },
    "rehearse": {
        *READS_PAIRS, "--from", "--epochs", "--losses", "--steps", "--horizon", "--output", "-o", "--fail-if",
        "--learning-rate", "--batch-size",
        "--gradient-accumulation-steps", "--lr-scheduler-type", "--warmup-steps", "--weight-decay", "--max-grad-norm",
        "--lora", "--held-out", "--eval-data", "--eval-split", "--every", "--probe-pairs",
        "--probe", "--probe-generate",
        "--limit", "--sample", "--seed", "--dtype", "--device", "--activation-checkpointing",
        "--format", "--write", "--quiet", "-q",
    },
    "doctor": {
        *(READS_PAIRS - {"MODEL", "DATA..."}), "[MODEL]", "[DATA...]", "--from", "--limit", "--lora", "--ref-model",
        "--dtype", "--device", "--strict", "--json", "--quiet", "-q",
    },
    "inspect": {
        *(READS_PAIRS - {"MODEL"}), "--from", "--model", "--limit", "--json",
        "--max-skipped",
    },
    "filter": {
        "RUN", "DATA", "--output", "-o", "--drop", "--keep", "--keep-lowest", "--keep-highest", "--by",
        "--drop-uncertain", "--drop-unmeasured", "--keep-unmeasured", "--write-dropped", "--annotate", "--json",
        "--loss", "--beta", "--gamma", "--loss-option",
    },
    "gate": {
        "[RUN]", "--fail-if", "--baseline", "--only-new", "--ignore-file", "--min-pairs",
        "--max-skipped", "--format", "--write",
        "--loss", "--beta", "--gamma", "--loss-option",
    },
}  # fmt: skip


def test_commands_and_options() -> None:
    group = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():
        words = set()
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            words.update(parameter.opts if is_option else [parameter.metavar])
        found[name] = words | {"--help", "-h"}
    assert found == {name: words | COMMON for name, words in SURFACE.items()}


def test_help_puts_every_option_under_a_title_and_ends_with_examples() -> None:
    group = typer.main.get_command(app)
    known = [name for names in OPTIONS.values() for name in names]
    assert len(known) == len(set(known))
    for name, command in group.commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                long = next(word for word in parameter.opts if word.startswith("--"))
                assert long.removeprefix("--") in known, f"{name} {long}"
        assert len(SUMMARIES[name]) <= 45
        assert EXAMPLES[name]
        assert all(line.startswith(f"entangle {name}") for line in EXAMPLES[name])
    assert sorted(name for names in COMMANDS.values() for name in names) == sorted(group.commands)


def test_scan_has_ten_options_that_are_most_used() -> None:
    command = typer.main.get_command(app).commands["scan"]
    long = [next(word for word in one.opts if word.startswith("--")) for one in command.params if one.opts[0][0] == "-"]
    assert len([word for word in long if option_group([word]) == "Most used"]) == 10


def test_examples_can_be_parsed() -> None:
    group = typer.main.get_command(app)
    for name, lines in EXAMPLES.items():
        for line in lines:
            words = shlex.split(re.sub(r" > [\w.]+$", "", line))[2:]
            group.commands[name].make_context(name, words, resilient_parsing=True)


def test_without_a_command_the_first_steps_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  entangle")] == [
        "demo",
        "inspect",
        "scan",
        "report",
        "show",
        "gate",
    ]
    assert max(map(len, out.splitlines())) <= 80
