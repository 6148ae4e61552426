"""The command line's surface, frozen: a change here is a change for users and belongs in CHANGELOG.md."""

from __future__ import annotations

import typer.main

from entangle_cli.cli.app import app

COMMON = {"--debug", "--help", "-h"}
SURFACE = {
    "scan": {
        "MODEL", "DATA", "--output", "-o", "--json", "--dtype", "--device", "--max-length", "--truncation", "--limit",
        "--sample", "--seed", "--split", "--batch-tokens", "--parameters", "--loss", "--beta", "--fail-if", "--strict",
        "--quiet", "-q", "--base-model", "--dry-run",
        "--activation-checkpointing", "--device-map", "--gamma", "--loss-option",
        "--ref-model", "--unshared-cosine", "--data-format", "--map", "--ranked", "--config-name", "--data-revision",
        "--checkpoints", "--model-revision", "--chat-template", "--trust-remote-code", "--pickled-weights",
        "--layers", "--include-text", "--known", "--deadline",
        "--shard", "--until-decided", "--confidence", "--attn-implementation",
    },
    "schema": set(),
    "merge": {"RUN ...", "--output", "-o"},
    "compare": {"RUN RUN ...", "--format", "--loss", "--beta", "--gamma", "--loss-option"},
    "tokens": {
        "MODEL", "DATA", "--pair", "--pair-in-row", "--format", "--json", "--npy", "--loss", "--beta", "--gamma",
        "--loss-option", "--dtype", "--device", "--max-length", "--split", "--config-name", "--data-revision",
        "--data-format", "--map", "--ranked", "--parameters", "--model-revision", "--base-model", "--chat-template",
        "--trust-remote-code", "--pickled-weights", "--attn-implementation",
    },
    "report": {"[RUN]", "--format", "--fail-if", "--losses", "--loss", "--beta", "--gamma", "--loss-option"},
    "forecast": {
        "MODEL", "DATA", "--eval-data", "--eval-split", "--data-format", "--optimizer", "--lr", "--weight-decay",
        "--state", "--max-grad-norm", "--batch-size", "--accumulate", "--verify", "--steps", "--ref-model",
        "--loss", "--beta", "--gamma", "--loss-option", "--json", "--dtype", "--device",
         "--max-length", "--limit", "--sample", "--seed", "--split",
        "--parameters", "--base-model", "--quiet", "-q", "--map", "--ranked", "--config-name", "--data-revision",
        "--model-revision", "--chat-template", "--trust-remote-code", "--pickled-weights", "--attn-implementation",
    },
    "inspect": {
        "DATA", "--model", "--data-format", "--max-length", "--limit", "--split", "--json", "--map", "--ranked",
        "--config-name", "--data-revision", "--model-revision", "--base-model", "--chat-template",
        "--trust-remote-code", "--max-skipped",
    },
    "filter": {
        "RUN", "DATA", "--output", "-o", "--drop", "--keep", "--keep-lowest", "--keep-highest", "--by",
        "--drop-uncertain", "--drop-unmeasured", "--write-dropped", "--annotate", "--json", "--loss", "--beta",
        "--gamma", "--loss-option",
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
