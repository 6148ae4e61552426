"""Rows of probe files: which hold an answer, in which group, and why the others do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.data.probe_answers import ProbeFile, read_probe_answers, refuse_probe_settings
from entangle_cli.errors import DataError, UsageError
from entangle_cli.records.settings import LARGEST_ROW

HI = [{"role": "user", "content": "Hi"}]
HELLO = [{"role": "assistant", "content": "Hello."}]


def read(tmp_path: Path, rows: list[Any], *, with_own: bool = False) -> ProbeFile:
    path = tmp_path / "probes.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return read_probe_answers(str(path), LARGEST_ROW, with_own=with_own)


def test_texts_and_messages_are_read(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        [
            {"prompt": "Hi", "completion": " Hello.", "group": " greeting "},
            {"prompt": HI, "completion": HELLO, "group": None},
            {"prompt": HI, "completion": "Hello.", "chat_template_kwargs": {"thinking": False}},
        ],
    )
    assert [(one.index, one.line, one.group) for one in file.answers] == [
        (0, 1, "greeting"),
        (1, 2, "probe"),
        (2, 3, "probe"),
    ]
    assert [one.completion for one in file.answers] == [" Hello.", HELLO, HELLO]
    assert file.answers[2].chat_template_kwargs == {"thinking": False}
    assert not file.skipped
    assert not any(one.is_own for one in file.answers)


def test_unusable_rows_have_a_reason(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        [
            {"prompt": "Hi", "completion": " Hello."},
            {"completion": "a"},
            {"prompt": None, "completion": "a"},
            {"prompt": 5, "completion": "a"},
            {"prompt": [], "completion": "a"},
            {"prompt": ["Hi"], "completion": "a"},
            {"prompt": "Hi", "completion": HELLO},
            {"prompt": "Hi", "completion": ""},
            {"prompt": "Hi", "completion": "a", "group": 5},
            {"prompt": "Hi"},
            "[1]",
            "{",
        ],
    )
    assert [(row.index, row.line, row.reason) for row in file.skipped] == [
        (index, index + 1, reason)
        for index, reason in enumerate(
            (
                *("malformed", "null", "malformed", "malformed", "malformed", "malformed", "empty", "malformed"),
                *("null", "malformed", "malformed"),
            ),
            start=1,
        )
    ]
    assert "no column 'prompt'; columns: completion" in file.skipped[0].detail
    assert file.skipped[8].detail == "no completion; --probe-generate answers it"


def test_rows_without_a_completion_ask_for_the_own_answer(tmp_path: Path) -> None:
    file = read(tmp_path, [{"prompt": "Hi"}, {"prompt": HI, "completion": None, "group": "chat"}], with_own=True)
    assert [(one.group, one.is_own) for one in file.answers] == [("own answer", True), ("chat", True)]


def test_rows_with_one_answer_each_are_not_joined(tmp_path: Path) -> None:
    """The columns of HelpSteer2's rows, of which two make a pair."""
    row = {"prompt": "Hi", "response": "b", "helpfulness": 1, "completion": " a"}
    assert len(read(tmp_path, [row, row]).answers) == 2


def test_a_csv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "probes.csv").write_text("prompt,completion,group\nHi, Hello.,greeting\n")
    (answer,) = read_probe_answers(str(tmp_path / "probes.csv"), LARGEST_ROW, with_own=False).answers
    assert (answer.prompt, answer.completion, answer.group) == ("Hi", " Hello.", "greeting")


def test_the_identity_follows_the_content(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "completion": " Hello.", "group": "a"}
    start = read(tmp_path, [row]).identity
    assert start == read(tmp_path, [row]).identity
    assert (start["name"], start["count"]) == ("probes.jsonl", 1)
    hashes = [read(tmp_path, [{**row, name: "other"}]).identity["hash"] for name in row]
    assert len({start["hash"], *hashes}) == 4


@pytest.mark.parametrize("rows", [[{"prompt": "Hi"}], [{"prompt": "Hi"}, "{"]])
def test_a_file_without_a_usable_row_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(DataError, match=f"none of {len(rows)} rows can be used; line 1: no completion") as error:
        read(tmp_path, rows)
    assert len(str(error.value).splitlines()) == 3
    with pytest.raises(DataError, match="no such file"):
        read_probe_answers(str(tmp_path / "nowhere.jsonl"), LARGEST_ROW, with_own=False)


def test_settings_that_do_not_fit_are_refused() -> None:
    refuse_probe_settings(None, None)
    refuse_probe_settings("probes.jsonl", 1)
    with pytest.raises(UsageError, match="without --probe"):
        refuse_probe_settings(None, 8)
    with pytest.raises(UsageError, match="above 0"):
        refuse_probe_settings("probes.jsonl", 0)


@pytest.mark.parametrize("with_own", [False, True])
def test_an_answer_under_another_name_is_not_taken_for_a_prompt_alone(tmp_path: Path, with_own: bool) -> None:
    rows = [{"prompt": "2 + 2 =", "answer": " 4"}, {"prompt": "2 + 2 =", "completion": " 4", "answer": "four"}]
    path = tmp_path / "probes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = read_probe_answers(str(path), 2**20, with_own=with_own)
    assert [answer.completion for answer in file.answers] == [" 4"]
    assert file.skipped[0].detail == 'no column "completion", and a column "answer"; name it "completion"'
