"""How help is laid out: commands and options under titles, examples at the end, a few commands to start with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

COMMANDS: Mapping[str, Sequence[str]] = {
    "Measure": ("scan", "forecast", "rehearse", "tokens"),
    "Look": ("report", "show", "compare", "explain"),
    "Act": ("gate", "filter"),
    "Prepare": ("demo", "inspect", "doctor"),
    "Advanced": ("merge", "schema"),
}
"""Title to commands, in the order of `entangle --help`."""

OPTIONS: Mapping[str, Sequence[str]] = {
    "Most used": (
        *("output", "limit", "sample", "max-length", "dtype", "loss", "beta", "fail-if", "include-text", "dry-run"),
        *("row", "line", "data", "trainer-log", "format", "write", "verbose", "drop", "keep", "model", "baseline"),
        *("losses", "steps", "learning-rate", "batch-size", "horizon", "held-out", "verify"),
    ),
    "A training's file": ("from",),
    "Rows": (
        *("seed", "shard", "split", "config-name", "data-revision", "data-format", "map", "ranked", "max-row-bytes"),
        *("truncation", "pair-in-row", "eval-data", "eval-split", "keep-lowest", "keep-highest", "by"),
        *("drop-uncertain", "drop-unmeasured", "keep-unmeasured", "write-dropped"),
    ),
    "Model": (
        *("parameters", "tokenizer", "chat-template", "template-date", "model-revision", "base-model", "checkpoints"),
        *("lora", "ref-model"),
    ),
    "Loss": ("gamma", "loss-option"),
    "Optimizer": (
        *("optimizer", "lr-scheduler-type", "warmup-steps", "weight-decay", "state", "max-grad-norm"),
        *("gradient-accumulation-steps", "epochs"),
    ),
    "Also measure": ("unshared-cosine", "layers", "write-reference", "every", "probe-pairs", "probe", "probe-generate"),
    "Gate and CI": (*("until-decided", "confidence", "strict", "only-new", "ignore-file", "min-pairs", "max-skipped"),),
    "Speed and memory": (
        *("device", "device-map", "batch-tokens", "activation-checkpointing", "attn-implementation"),
        *("known", "deadline"),
    ),
    "Several processes": ("workers", "gpus-per-worker", "threads-per-worker", "ray-address"),
    "Unsafe unless you trust it": ("trust-remote-code", "pickled-weights"),
    "Output": ("json", "npy", "annotate", "quiet", "debug", "help"),
}
"""Title to options, without dashes, in the order of a command's help."""

SUMMARIES: Mapping[str, str] = {
    "scan": "Measure every pair; write a run",
    "forecast": "Predict a step, and the end of a run",
    "rehearse": "Take the first real steps, on a copy",
    "tokens": "Show one pair token by token",
    "report": "Show a run: why, and what to do",
    "show": "Show one pair of a run with its text",
    "compare": "Show what changed between runs",
    "explain": "Explain a word, a code or a topic",
    "gate": "Judge a run by rules, for CI",
    "filter": "Write the rows that rules keep",
    "demo": "Try it on sample data, offline",
    "inspect": "Show how a data set is read",
    "doctor": "Examine a training before it starts",
    "merge": "Join the parts of a scan with --shard",
    "schema": "Print the run document's JSON Schema",
}
"""A command in at most 45 characters."""

EXAMPLES: Mapping[str, Sequence[str]] = {
    "scan": (
        "entangle scan path/to/checkpoint pairs.jsonl --limit 200",
        "entangle scan path/to/checkpoint pairs.jsonl --loss simpo --include-text",
        'entangle scan path/to/checkpoint pairs.jsonl --fail-if "both_fall_rate > 20%"',
        "entangle scan path/to/checkpoint pairs.jsonl --dtype bfloat16 --workers auto",
    ),
    "forecast": (
        "entangle forecast path/to/checkpoint pairs.jsonl --batch-size 8 --horizon 200",
        "entangle forecast path/to/checkpoint pairs.jsonl --batch-size 8 --verify",
    ),
    "rehearse": (
        "entangle rehearse path/to/checkpoint pairs.jsonl --losses dpo,ipo,simpo --learning-rate 5e-7",
        "entangle rehearse path/to/checkpoint pairs.jsonl --lora r=16,alpha=32 --held-out 0.1",
        'entangle rehearse path/to/checkpoint pairs.jsonl --fail-if "chosen_falls_rate > 60%"',
    ),
    "tokens": (
        "entangle tokens path/to/checkpoint pairs.jsonl --row 12",
        "entangle tokens path/to/checkpoint pairs.jsonl --row 12 --format html > tokens.html",
    ),
    "report": (
        "entangle report",
        "entangle report --losses",
        "entangle report --write html=report.html --loss simpo",
    ),
    "show": ("entangle show --line 140", "entangle show --row 139 --data pairs.jsonl"),
    "compare": (
        "entangle compare runs/before runs/after",
        "entangle compare runs/step-* --format html > compare.html",
        "entangle compare runs/start --trainer-log output/checkpoint-200/trainer_state.json",
    ),
    "explain": ("entangle explain slack", "entangle explain W-BOUNDARY", "entangle explain ci"),
    "gate": (
        'entangle gate --fail-if "both_fall_rate > 20%"',
        'entangle gate RUN --baseline BEFORE --fail-if "both_fall_rate_increase > 5%" --write junit=gate.xml',
    ),
    "filter": (
        "entangle filter RUN pairs.jsonl -o kept.jsonl --drop 'movement == both_fall'",
        "entangle filter RUN pairs.jsonl -o kept.jsonl --keep-lowest 0.5 --by cosine",
    ),
    "demo": ("entangle demo", "entangle demo my-demo"),
    "doctor": ("entangle doctor --from dpo.yaml", "entangle doctor path/to/checkpoint pairs.jsonl --strict"),
    "inspect": ("entangle inspect pairs.jsonl", "entangle inspect pairs.jsonl --model path/to/checkpoint"),
    "merge": ("entangle merge runs/part-1 runs/part-2 -o runs/whole",),
    "schema": ("entangle schema > run.schema.json",),
}

FIRST_STEPS = """entangle measures how a preference loss moves both answers of every pair.

  entangle demo                                    try it on sample data
  entangle inspect pairs.jsonl                     how your data are read
  entangle scan path/to/checkpoint pairs.jsonl     measure every pair
  entangle report                                  verdict, reasons, next steps
  entangle show --line 12                          one pair, with its text
  entangle gate --fail-if "both_fall_rate > 20%"   a verdict for CI

entangle --help lists every command, entangle explain every topic."""


class GroupedCommand(TyperCommand):
    """A command whose help has options under titles and ends with examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by group."""
        records: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{title: [] for title in OPTIONS}}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_option = parameter.param_type_name == "option"
                records[option_group(parameter.opts) if is_option else "Arguments"].append(record)
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line: arguments as they are named below it."""
        arguments = [one.metavar for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(name) for name in arguments)]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 -- as typer calls it
        """Write the examples, each in one line to copy."""
        if examples := EXAMPLES.get(str(self.name)):
            formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in examples))

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002 -- as typer calls it
        """The command's summary."""
        return SUMMARIES[str(self.name)]


class GroupedCommands(TyperGroup):
    """Commands under titles."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by group."""
        for title, names in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, SUMMARIES[name]) for name in names if self.get_command(ctx, name)])


def option_group(words: Sequence[str]) -> str:
    """The title under which an option stands."""
    name = next(word for word in words if word.startswith("--")).removeprefix("--")
    return next((title for title, names in OPTIONS.items() if name in names), "Output")
