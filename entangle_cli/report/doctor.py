"""An examination for people: what was seen, then the findings, the worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from entangle_cli.records.words import counted
from entangle_cli.report.escape import for_terminal

STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def doctor_report(document: Mapping[str, Any], *, only_findings: bool = False) -> RenderableType:
    """The whole examination, or the findings alone."""
    findings = document["findings"]
    parts: list[RenderableType] = [] if only_findings else [_seen(document), Text()]
    for one in findings:
        head = Text(f"{one['severity']:<8}", style=STYLES[one["severity"]])
        head.append(f" {one['code']}", style="bold")
        parts += [head, Padding(Text(for_terminal(one["message"])), (0, 0, 0, 9))]
        parts.append(Padding(Text(for_terminal(f"-> {one['remedy']}"), style="dim"), (0, 0, 0, 9)))
    if findings:
        parts.append(Text())
    return Group(*parts, Text(_verdict(findings), style="bold"))


def _verdict(findings: list[Mapping[str, Any]]) -> str:
    counts = [
        counted(number, severity)
        for severity in ("error", "warning", "note")
        if (number := sum(one["severity"] == severity for one in findings))
    ]
    return ", ".join(counts) or "No findings."


def _seen(document: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in _seen_words(document):
        table.add_row(name, Text(for_terminal(words)))
    return table


def _seen_words(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    machine, model, data, training = (document[name] for name in ("environment", "model", "data", "training"))
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield "versions", f"entangle {machine['entangle']}, Python {machine['python']}, {packages}"
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory'] / 2**30:.0f} GiB)" for gpu in machine["gpus"])
    yield "devices", f"{gpus or 'no GPU'}, {counted(machine['cpu_threads'], 'CPU thread')}, {machine['system']}"
    if model is not None:
        context = "of unknown length" if model["context"] is None else f"of {model['context']:,} tokens"
        yield "model", f"{model['name']}: {model['dtype']} on {model['device']}, a context {context}"
        yield "attention", model["attention"]
        ends = f"BOS {model['bos_token'] or 'none'}, EOS {model['eos_token'] or 'none'}"
        template = "a chat template" if model["chat_template"] else "no chat template"
        yield "tokenizer", f"{model['tokens']:,} tokens, {ends}, {template}, pads on the {model['padding_side']}"
    for one in data:
        words = "; ".join([f"{one['usable']:,} of {counted(one['data']['looked_at'], 'row')} usable", *one["formats"]])
        yield "data", f"{one['data']['name']}: {words}"
        yield "engine", _engine_words(one["engine"])
    if training is not None:
        loss = "no loss that entangle knows" if training["loss"] is None else training["loss"]["name"]
        yield "training", f"{training['trainer']} ({training['method']}), {loss}, read by {training['read_by']}"


def _engine_words(check: Mapping[str, Any]) -> str:
    if check["reason"] is not None:
        return f"not compared with autograd: {check['reason']}"
    return (
        f"{counted(check['num_pairs'], 'pair')} in a batch, and autograd for every answer alone: "
        f"the cosine differs by {check['cosine']:.1g}, norms by {check['norm']:.1g}"
    )
