"""A rehearsal for people, in a terminal or as Markdown: what the first steps did under each loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.words import counted, last_turn, listed, percent
from entangle_cli.report.marks import ASCII_MARKS, movement_words
from entangle_cli.report.probe_answers import rehearsal_probe_parts
from entangle_cli.report.summary import place_words, shortened
from entangle_cli.report.tables import empty_table, escaped, heading, signed, signed_interval

SETS = {"train": "training", "held_out": "held-out"}
"""Probe sets in the document, and in words."""
CHANGES = ("chosen", "rejected", "margin")
RATES = ("chosen\nfalls", "rejected\nrises", "margin\nrises")
"""Headings of columns."""
NUM_WORST = 5
PROMPT_CHARACTERS = 26


def rehearsal_report(document: Mapping[str, Any], style: box.Box) -> RenderableType:
    """Everything worth reading about a rehearsal.

    Args:
        style: of the tables: `box.SIMPLE_HEAD` in a terminal, `box.MARKDOWN` in Markdown.
    """
    names = loss_names(document)
    parts: list[RenderableType] = [*_headline(document, style), Text()]
    for sentence in rehearsal_sentences(document):
        parts += [Text(escaped(sentence, style), style="bold"), Text()]
    parts += [heading(f"After {counted(document['steps'], 'step')}:", _probe_words(document), style)]
    parts += [_ends(document, names, style), Text()]
    if any(loss["extrapolated"] for loss in document["losses"]) and document["steps"] < document["horizon"]:
        parts += [heading(f"At step {document['horizon']:,}, extrapolated:", _factor_words(document), style)]
        parts += [_extrapolated(document, names, style), Text()]
    if document["differences"]:
        than = names[document["losses"][0]["name"]]
        parts += [heading("Losses compared", f"with {than} on the same pairs: mean difference, 95 % interval", style)]
        parts += [_differences(document, names, style), Text()]
        parts += [Text("Another order of batches would change these differences too."), Text()]
    if document["probes"] is not None:
        parts += [*rehearsal_probe_parts(document, names, style), Text()]
    for loss in document["losses"]:
        parts += [heading(f"{names[loss['name']]}:", f"by step, {loss['trainer']}; training pairs", style)]
        parts += [_steps(loss, style), Text()]
    if worst := _worst(document):
        first = document["losses"][0]["name"]
        parts += [heading("Largest falls", f"of the chosen answer under {names[first]}", style)]
        parts += [Text(_pair_line(pair, first, style)) for pair in worst]
        parts += [Text()]
    parts += [Text(line) for line in _notes(document, style)]
    mark = "- " if style is box.MARKDOWN else ""
    # A long name can only be copied from a line of its own.
    parts.append(Text(mark + escaped(f"Kept in {document['folder']}", style), no_wrap=True, overflow="ignore"))
    parts.append(Text("  one run per step and loss, for entangle report and compare"))
    return Group(*parts)


def loss_names(document: Mapping[str, Any]) -> dict[str, str]:
    """Short names of the losses: without their numbers where that is clear."""
    losses = document["losses"]
    plain = [loss["loss"]["name"] for loss in losses]
    return {
        loss["name"]: name if plain.count(name) == 1 else loss["loss"]["text"]
        for loss, name in zip(losses, plain, strict=True)
    }


def rehearsal_sentences(document: Mapping[str, Any]) -> list[str]:
    """What happened under the first loss, and whether the others differ."""
    names = loss_names(document)
    first = document["losses"][0]
    own = first["points"][-1]["train"]
    if own is None or "chosen_falls_rate" not in own:
        return [f"Nothing moved in {counted(document['steps'], 'step')} under {names[first['name']]}."]
    sentences = [
        f"After {counted(document['steps'], 'step')} under {names[first['name']]}, the chosen answer lost probability "
        f"in {percent(own['chosen_falls_rate'])} of the training pairs, and the rejected one gained in "
        f"{percent(own['rejected_rises_rate'])}."
    ]
    if len(document["losses"]) > 1:
        sentences.append(_difference_sentence(document, names))
    return sentences


MOVED = {"chosen": "the chosen answer", "margin": "the margin"}


def _difference_sentence(document: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Which losses differ from the first beyond chance on training pairs, and by how much; and which do not."""
    first = document["losses"][0]
    than, own = names[first["name"]], first["points"][-1]["train"]
    beyond: dict[str, list[str]] = {}
    for row in document["differences"]:
        if row["pairs_of"] == "train" and row["change"] != "rejected" and row["beyond_chance"]:
            size = abs(own[f"{row['change']}_change_mean"])
            share = f" ({percent(abs(row['mean']) / size)} of {than}'s change)" if size else ""
            words = f"{MOVED[row['change']]} by {signed(row['mean'])} nats{share}"
            beyond.setdefault(names[row["loss"]], []).append(words)
    alike = [name for key, name in names.items() if key != first["name"] and name not in beyond]
    parts = [f"compared with {than}, {name} moves {' and '.join(changes)}" for name, changes in beyond.items()]
    if alike:
        parts.append(f"no difference beyond chance between {than} and {listed(alike)}")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def training_words(document: Mapping[str, Any]) -> str:
    """The rehearsed training in words."""
    training, rows = document["training"], document["data"]["rows"]["count"]
    batch = training["batch_size"] * training["accumulate"]
    lora = training["lora"]
    return (
        f"first {document['steps']:,} of {counted(document['horizon'], 'step')}, {counted(rows, 'pair')}, "
        f"{batch:,} per step, AdamW at {training['learning_rate']:g}, {training['lr_scheduler_type']} schedule"
        + (f", LoRA of rank {lora['r']}" if lora else "")
    )


def _headline(document: Mapping[str, Any], style: box.Box) -> list[Text]:
    title = f"{document['model']['name']} on {document['data']['name']}"
    return [Text(escaped(title, style), style="bold"), Text(escaped(training_words(document), style))]


def _probe_words(document: Mapping[str, Any]) -> str:
    counts = {name: sum(pair["pairs_of"] == name for pair in document["pairs"]) for name in SETS}
    words = " and ".join(f"{counts[name]:,} {SETS[name]}" for name in SETS if counts[name])
    return f"means over {words} probe pairs; changes in nats since the start"


def _ends(document: Mapping[str, Any], names: Mapping[str, str], style: box.Box) -> Table:
    table = empty_table(style, "loss", "pairs", *CHANGES, *RATES, "cosine", words=2)
    for loss in document["losses"]:
        for name, words in SETS.items():
            if (metrics := loss["points"][-1][name]) is not None:
                table.add_row(names[loss["name"]], words, *_changes(metrics), *_rates(metrics), _cosine(metrics))
    return table


def _changes(metrics: Mapping[str, float]) -> list[str]:
    return [signed(metrics.get(f"{name}_change_mean")) for name in CHANGES]


def _rates(metrics: Mapping[str, float]) -> list[str]:
    rates = [metrics.get(name) for name in ("chosen_falls_rate", "rejected_rises_rate", "margin_rises_rate")]
    return ["-" if rate is None else percent(rate) for rate in rates]


def _cosine(metrics: Mapping[str, float]) -> str:
    return signed(metrics.get("cosine_mean"))


def _factor_words(document: Mapping[str, Any]) -> str:
    factor = document["losses"][0]["extrapolated"]["factor"]
    return f"changes times {factor:.3g}, as the learning rates add up; not measured"


def _extrapolated(document: Mapping[str, Any], names: Mapping[str, str], style: box.Box) -> Table:
    table = empty_table(style, "loss", "pairs", *CHANGES, words=2)
    for loss in document["losses"]:
        for name, words in SETS.items():
            if loss["extrapolated"] and loss["extrapolated"][name]:
                table.add_row(names[loss["name"]], words, *_changes(loss["extrapolated"][name]))
    return table


def _differences(document: Mapping[str, Any], names: Mapping[str, str], style: box.Box) -> Table:
    table = empty_table(style, "loss", "pairs", "change of", "mean", "95 % interval", "beyond chance", words=3)
    for row in document["differences"]:
        beyond = {True: "yes", False: "no", None: "too few pairs"}[row["beyond_chance"]]
        numbers = (signed(row["mean"]), signed_interval(row["interval"]))
        table.add_row(names[row["loss"]], SETS[row["pairs_of"]], row["change"], *numbers, beyond)
    return table


def _steps(loss: Mapping[str, Any], style: box.Box) -> Table:
    table = empty_table(style, "step", *CHANGES, *RATES, "cosine")
    for point in loss["points"]:
        if (metrics := point["train"]) is not None:
            table.add_row(f"{point['step']:,}", *_changes(metrics), *_rates(metrics), _cosine(metrics))
    return table


def _worst(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The training pairs whose chosen answer lost most under the first loss."""
    first = document["losses"][0]["name"]
    own = [pair for pair in document["pairs"] if pair["pairs_of"] == "train"]
    falling = [pair for pair in own if (pair["losses"][first]["chosen_change"] or 0.0) < 0]
    return sorted(falling, key=lambda pair: float(pair["losses"][first]["chosen_change"]))[:NUM_WORST]


def _pair_line(pair: Mapping[str, Any], loss: str, style: box.Box) -> str:
    seen = pair["losses"][loss]
    prompt = shortened(" ".join(last_turn(pair["prompt"]).split()), PROMPT_CHARACTERS)
    mark = ASCII_MARKS[seen["movement"]]
    words = (
        f"{escaped(place_words(pair), style)} {mark} {movement_words(seen['movement'])}: chosen "
        f"{signed(seen['chosen_change'])}, rejected {signed(seen['rejected_change'])}  {escaped(prompt, style)}"
    )
    return f"- {words}" if style is box.MARKDOWN else f"  {words}"


def _notes(document: Mapping[str, Any], style: box.Box) -> list[str]:
    notes = []
    if document["skipped"]:
        first = document["skipped"][0]
        notes.append(
            f"{counted(len(document['skipped']), 'row')} hold no pair and are not trained on, the first: "
            f"{place_words(first)}, {first['reason']}"
        )
    if document["probes"] is not None and (skipped := document["probes"]["skipped"]):
        notes.append(
            f"{counted(len(skipped), 'probe row')} cannot be used, the first: {place_words(skipped[0])}, "
            f"{skipped[0]['reason']}: {skipped[0]['detail']}"
        )
    if document["gate"] is not None:
        notes += [
            f"gate {result['outcome'].replace('_', ' ')}: {result['loss']}: {result['sentence']}"
            for result in document["gate"]["results"]
        ]
    mark = "- " if style is box.MARKDOWN else ""
    return [mark + escaped(note, style) for note in notes]
