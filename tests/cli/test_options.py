"""All commands and options. A change here affects users and belongs in CHANGELOG.md."""

from __future__ import annotations

import typer.main

from entangle_cli.cli.app import app

READS_PAIRS = {
    "MODEL", "DATA...", "--split", "--config-name", "--data-revision", "--data-format", "--map", "--ranked",
    "--max-row-bytes",
    "--max-length", "--truncation", "--tokenizer", "--chat-template", "--template-date", "--model-revision",
    "--base-model", "--attn-implementation", "--trust-remote-code", "--pickled-weights",
}  # fmt: skip
"""Options of all commands that read pairs, so that a pair has the same tokens in each."""

COMMON = {"--debug", "--help", "-h"}
SURFACE = {
    "scan": {
        *READS_PAIRS, "--output", "-o", "--json", "--dtype", "--device", "--limit",
        "--sample", "--seed", "--batch-tokens", "--parameters", "--loss", "--beta", "--fail-if", "--strict",
        "--quiet", "-q", "--dry-run",
        "--activation-checkpointing", "--device-map", "--gamma", "--loss-option",
        "--ref-model", "--unshared-cosine",
        "--checkpoints",
        "--layers", "--include-text", "--known", "--deadline",
        "--shard", "--until-decided", "--confidence",
    },
    "schema": set(),
    "explain": {"[NAME]"},
    "merge": {"RUN ...", "--output", "-o"},
    "compare": {"RUN RUN ...", "--format", "--loss", "--beta", "--gamma", "--loss-option"},
    "tokens": {
        *READS_PAIRS, "--pair", "--pair-in-row", "--format", "--json", "--npy", "--loss", "--beta", "--gamma",
        "--loss-option", "--dtype", "--device",
        "--parameters",
    },
    "report": {"[RUN]", "--format", "--fail-if", "--losses", "--loss", "--beta", "--gamma", "--loss-option"},
    "forecast": {
        *READS_PAIRS, "--eval-data", "--eval-split", "--optimizer", "--lr", "--weight-decay",
        "--state", "--max-grad-norm", "--batch-size", "--accumulate", "--verify", "--steps", "--ref-model",
        "--loss", "--beta", "--gamma", "--loss-option", "--json", "--dtype", "--device",
         "--limit", "--sample", "--seed",
        "--parameters", "--quiet", "-q",
    },
    "inspect": {
        *(READS_PAIRS - {"MODEL"}), "--model", "--limit", "--json",
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
