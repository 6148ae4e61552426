"""A gate's verdict for machines and for where people look: JSON, JUnit, GitHub's annotations, Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any
from xml.etree import ElementTree

from entangle_cli.report.escape import for_cell, for_markdown, for_terminal
from entangle_cli.report.marks import movement_words

ANNOTATIONS = 10
"""GitHub shows about so many of a kind in a step."""


def verdict_document(verdict: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict as one document, rule by rule, numbers unrounded.

    Args:
        about: which run was judged, and under which loss.
    """
    return {"schema": "entangle.verdict", "schema_version": "1.0", **about, **asdict(verdict)}


def write_junit(stream: IO[str], verdict: Any, about: Mapping[str, Any]) -> None:
    """A test case a rule: a breach is a failure, what cannot be judged an error."""
    results = verdict.results
    counts = {"failed": 0, "cannot_judge": 0} | {
        outcome: _count(results, outcome) for outcome in ("failed", "cannot_judge")
    }
    # A run that is no sample to judge by is an error even where every rule could be computed.
    whole = verdict.outcome.value == "cannot_judge" and not counts["cannot_judge"]
    suite = ElementTree.Element(
        "testsuite",
        name="entangle gate",
        tests=str(len(results) + whole),
        failures=str(counts["failed"]),
        errors=str(counts["cannot_judge"] + whole),
    )
    for result in results:
        case = ElementTree.SubElement(suite, "testcase", classname=_plain(about["run"]), name=_plain(result.rule.text))
        if result.outcome.value != "passed":
            kind = "failure" if result.outcome.value == "failed" else "error"
            ElementTree.SubElement(case, kind, message=_plain(result.sentence))
    if whole:
        case = ElementTree.SubElement(suite, "testcase", classname=_plain(about["run"]), name="enough to judge by")
        ElementTree.SubElement(case, "error", message=_plain(verdict.sentence))
    stream.write(ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n")


def _count(results: Any, outcome: str) -> int:
    return sum(result.outcome.value == outcome for result in results)


def _plain(text: Any) -> str:
    """XML has no way to write most control characters."""
    return for_terminal(str(text))


def write_markdown(stream: IO[str], verdict: Any, about: Mapping[str, Any]) -> None:
    """For a step summary or a pull request's comment."""
    stream.write(f"### entangle gate: {verdict.outcome.value.replace('_', ' ')}\n\n")
    stream.write(f"{for_markdown(str(about['run']))}, {for_markdown(str(about['loss']))}\n\n")
    for result in verdict.results:
        stream.write(f"- **{result.outcome.value.replace('_', ' ')}**: {for_markdown(result.sentence)}\n")
    if verdict.scope is not None:
        stream.write(f"- judged: {for_markdown(verdict.scope.sentence)}\n")
    stream.write(f"\n{for_markdown(verdict.sentence)}\n")


def write_github(stream: IO[str], verdict: Any, about: Mapping[str, Any]) -> None:
    """Workflow commands: an annotation a breached rule, and one for each of the worst pairs that stand in a file."""
    for result in verdict.results:
        if result.outcome.value != "passed":
            _command(stream, "error", "entangle gate", result.sentence)
    if verdict.outcome.value == "cannot_judge":
        _command(stream, "error", "entangle gate", verdict.sentence)
    if verdict.scope is not None:
        _command(stream, "notice", "entangle gate", f"Judged {verdict.scope.sentence}")
    if verdict.outcome.value == "failed":
        for row in verdict.worst[:ANNOTATIONS]:
            file = row["file"] or about["data_file"]
            _command(stream, "warning", "entangle pair", pair_sentence(row), file=file, line=row["line"])


def pair_sentence(row: Mapping[str, Any]) -> str:
    """What a pair does, in words for a line beside it."""
    slack = "" if row["slack"] is None else f", slack {row['slack']:.3f}"
    return f"row {row['index']}: {movement_words(row['movement'])}, cosine {row['cosine']:.3f}{slack}"


def _command(
    stream: IO[str], kind: str, title: str, words: str, file: str | None = None, line: int | None = None
) -> None:
    places = {"file": file, "line": line, "title": title}
    properties = ",".join(f"{name}={_property(value)}" for name, value in places.items() if value is not None)
    stream.write(f"::{kind} {properties}::{_message(words)}\n")


def _message(text: str) -> str:
    return for_cell(text).replace("%", "%25")


def _property(value: Any) -> str:
    return _message(str(value)).replace(":", "%3A").replace(",", "%2C")
