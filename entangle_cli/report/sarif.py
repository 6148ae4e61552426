"""A gate's verdict as SARIF 2.1.0 (OASIS, 2020), which code-scanning services read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import IO, Any
from urllib.parse import quote

from entangle_cli.report.escape import for_terminal
from entangle_cli.report.gate import pair_sentence

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
PAIR_RULE = {
    "id": "entangled-pair",
    "shortDescription": {"text": "One of the pairs to look at first in a run that breaches a rule."},
    "defaultConfiguration": {"level": "warning"},
}
"""What the results that stand at pairs' lines break; the others break the user's own rules."""


def write_sarif(stream: IO[str], verdict: Any, about: Mapping[str, Any], version: str) -> None:
    """A result for each breached rule, and one for each of the worst pairs of a failed run, at its line.

    What passes is a note, not a result: services show every result as an alert. If a rule cannot be
    judged, `executionSuccessful` is false. Otherwise a file without results would look like a pass.

    Args:
        about: as for JSON.
        version: entangle's own.
    """
    results = [_rule_result(result, about) for result in verdict.results if result.outcome.value == "failed"]
    if verdict.outcome.value == "failed":
        results.extend(_pair_result(row, about) for row in verdict.worst)
    rules = {result.rule.text: _rule(result.rule) for result in verdict.results}
    invocation = {
        "executionSuccessful": verdict.outcome.value != "cannot_judge",
        "toolExecutionNotifications": list(_notifications(verdict)),
    }
    run = {
        "tool": {"driver": {"name": "entangle", "version": version, "rules": [*rules.values(), PAIR_RULE]}},
        "columnKind": "unicodeCodePoints",
        "invocations": [invocation],
        "properties": {"run": str(about["run"]), "loss": str(about["loss"]), "outcome": verdict.outcome.value},
        "results": results,
    }
    json.dump({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, stream, indent=1, allow_nan=False)
    stream.write("\n")


def _rule(rule: Any) -> dict[str, Any]:
    return {"id": rule.text, "name": rule.metric, "shortDescription": {"text": f"The gate fails if {rule.text}."}}


def _rule_result(result: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ruleId": result.rule.text,
        "level": "error",
        "message": {"text": for_terminal(result.sentence)},
        "locations": _locations(about["data_file"], None),
        "properties": {"observed": result.observed, "threshold": result.rule.threshold},
    }


def _pair_result(row: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ruleId": PAIR_RULE["id"],
        "level": "warning",
        "message": {"text": pair_sentence(row)},
        "locations": _locations(row["file"] or about["data_file"], row["line"]),
        # A pair is the same finding wherever its line moves to.
        "partialFingerprints": {"pairId/v1": row["pair_id"]},
    }


def _locations(file: str | None, line: int | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    region = {} if line is None else {"region": {"startLine": line}}
    return [{"physicalLocation": {"artifactLocation": {"uri": _uri(file)}, **region}}]


def _uri(file: str) -> str:
    """Relative paths stay relative: services resolve them at the repository's root."""
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _notifications(verdict: Any) -> Iterator[dict[str, Any]]:
    for result in verdict.results:
        if result.outcome.value != "failed":
            yield _notification("note" if result.outcome.value == "passed" else "error", result.sentence)
    if verdict.outcome.value == "cannot_judge":
        yield _notification("error", verdict.sentence)


def _notification(level: str, sentence: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": for_terminal(sentence)}}
