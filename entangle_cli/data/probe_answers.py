"""Probe answers: prompts with answers whose log-probs are followed along a step or a rehearsal.

A row has TRL's prompt-completion form: `prompt` and `completion` are both texts or both lists of messages. A text may
also answer a list of messages. `group` names what the answer stands for. A row without a completion asks for the
checkpoint's own answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entangle_cli.data.pair_ids import content_hash
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.data.sources import open_source
from entangle_cli.data.trl_rows import Text, Unusable, check_messages, kind, template_arguments
from entangle_cli.errors import DataError, UsageError
from entangle_cli.records.settings import ReadingSettings

GROUP = "probe"
"""Group of a row that names none."""
OWN_GROUP = "own answer"
"""Group of an own answer of the checkpoint whose row names none."""
FORMAT = "TRL prompt-completion"
OTHER_NAMES = ("answer", "response", "output", "target", "solution")
"""Columns that often hold an answer. A row with one of them and no completion is not taken for a prompt alone."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """A prompt, and the answer to follow."""

    index: int
    line: int | None
    file: str | None
    group: str
    prompt: Text
    completion: Text | None
    """None for the checkpoint's own answer."""
    tools: list[Any] | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether the checkpoint itself writes the answer."""
        return self.completion is None

    def as_pair(self) -> PreferencePair:
        """The row as tokenisers take it: the answer is on both sides."""
        answer = [] if self.completion is None else self.completion
        return PreferencePair(
            self.index,
            self.line,
            FORMAT,
            content_hash([self.prompt, answer, self.tools, dict(self.chat_template_kwargs)]),
            self.prompt,
            answer,
            answer,
            self.tools,
            self.chat_template_kwargs,
            file=self.file,
        )


@dataclass(frozen=True, slots=True)
class ProbeFile:
    """The rows of a probe file."""

    name: str
    answers: Sequence[ProbeAnswer]
    skipped: Sequence[SkippedRow]

    @property
    def identity(self) -> dict[str, Any]:
        """Name, number and hash of the usable rows, JSON-able."""
        rows = [
            [answer.prompt, answer.completion, answer.group, answer.tools, dict(answer.chat_template_kwargs)]
            for answer in self.answers
        ]
        return {"name": self.name, "count": len(rows), "hash": content_hash(rows)}


def refuse_probe_settings(probe: Path | str | None, num_tokens: int | None) -> None:
    """Check the settings of probe answers.

    Raises:
        UsageError: own answers without a probe file, or with fewer than one token.
    """
    if num_tokens is not None and probe is None:
        raise UsageError("--probe-generate without --probe", "the prompts to answer", "give --probe, or leave it out")
    if num_tokens is not None and num_tokens < 1:
        raise UsageError(f"--probe-generate {num_tokens}", "a number of tokens above 0", "use for example 64")


def read_probe_answers(location: str, max_row_bytes: int, *, with_own: bool) -> ProbeFile:
    """Read a probe file.

    Args:
        location: a file, a folder or a hub name, as DATA.
        with_own: keep rows without a completion, for the checkpoint to answer.
    Raises:
        DataError: it cannot be read, or no row can be used.
    """
    # A forced format: rows with one answer each would otherwise be joined to pairs.
    source = open_source(location, ReadingSettings(data_format="trl", max_row_bytes=max_row_bytes))
    answers: list[ProbeAnswer] = []
    skipped: list[SkippedRow] = []
    for row in source.rows():
        try:
            answers.append(_answer(row, with_own=with_own))
        except Unusable as unusable:
            skipped.append(SkippedRow(row.index, row.line, unusable.reason, unusable.detail, file=row.file))
    source.refuse_changed()
    if not answers:
        raise no_usable_probe(source, skipped)
    return ProbeFile(source.name, answers, skipped)


def no_usable_probe(source: RowSource | ProbeFile, skipped: Sequence[SkippedRow]) -> DataError:
    """The error for a probe file without a usable row."""
    first = skipped[0]
    place = f"row {first.index}" if first.line is None else f"line {first.line}"
    return DataError(
        f"--probe {source.name}: none of {len(skipped):,} rows can be used; {place}: {first.detail}",
        'rows with "prompt" and "completion", both texts or both lists of messages',
        "fix the rows; --probe-generate TOKENS answers prompts without a completion",
        topic="forecast",
    )


def _answer(row: RawRow, *, with_own: bool) -> ProbeAnswer:
    """The probe answer of a row.

    Raises:
        Unusable: the row holds none.
    """
    if row.problem is not None:
        raise Unusable("malformed", row.problem)
    if not isinstance(row.value, dict):
        raise Unusable("malformed", f"a {kind(row.value)} where an object was expected")
    value = row.value
    prompt, completion = _prompt(value), value.get("completion")
    if completion is None and (named := [name for name in OTHER_NAMES if value.get(name)]):
        raise Unusable("malformed", f'no column "completion", and a column "{named[0]}"; name it "completion"')
    if completion is None and not with_own:
        raise Unusable("null", "no completion; --probe-generate answers it")
    tools, kwargs = template_arguments(value)
    group = _group(value.get("group")) or (OWN_GROUP if completion is None else GROUP)
    answer = None if completion is None else _completion(prompt, completion)
    return ProbeAnswer(row.index, row.line, row.file, group, prompt, answer, tools, kwargs)


def _prompt(value: Mapping[str, Any]) -> Text:
    if "prompt" not in value:
        raise Unusable("malformed", f"no column 'prompt'; columns: {', '.join(map(str, value)) or 'none'}")
    prompt = value["prompt"]
    if prompt is None:
        raise Unusable("null", '"prompt" is null')
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise Unusable("malformed", f'"prompt" is a {kind(prompt)}, not a text or a list of messages')
    if not prompt:
        raise Unusable("malformed", '"prompt" is an empty list of messages')
    check_messages("prompt", prompt)
    return prompt


def _completion(prompt: Text, completion: Any) -> Text:
    if not completion:
        raise Unusable("empty", '"completion" is empty')
    if isinstance(completion, str):
        return completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
    if isinstance(completion, list) and isinstance(prompt, list):
        check_messages("completion", completion)
        return completion
    detail = f'"prompt" is a {kind(prompt)} and "completion" a {kind(completion)}; both must be texts or messages'
    raise Unusable("malformed", detail)


def _group(group: Any) -> str:
    """The name of a group; empty without one."""
    if group is None:
        return ""
    if not isinstance(group, str):
        raise Unusable("malformed", f'"group" is a {kind(group)}, not a text')
    return group.strip()
