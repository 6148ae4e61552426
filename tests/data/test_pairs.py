"""From rows to pairs: every signature, every reason to skip, and ids that depend only on the content."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from entangle_cli.data.pair_ids import pair_id
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.data.sources import open_source
from entangle_cli.data.trl_rows import PairFormat, extract_prompt
from tests.data.reading import only_pair
from tests.data.tokenizers import small_tokenizer

Row = dict[str, Any]


def user(content: Any) -> Row:
    return {"role": "user", "content": content}


def assistant(content: Any) -> Row:
    return {"role": "assistant", "content": content}


def read(value: Any) -> PreferencePair | SkippedRow:
    return only_pair(RawRow(7, value, 11))


def pair_of(value: Any) -> PreferencePair:
    pair = read(value)
    assert isinstance(pair, PreferencePair), pair
    return pair


CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = {"role": "assistant", "tool_calls": [CLOCK]}

SIGNATURES: dict[str, tuple[Row, PairFormat, tuple[Any, Any, Any]]] = {
    "standard": (
        {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
        PairFormat.STANDARD,
        ("2+2=", "4", "5"),
    ),
    "standard, empty prompt": (
        {"prompt": "", "chosen": "4", "rejected": "5"},
        PairFormat.STANDARD,
        ("", "4", "5"),
    ),
    "standard, other columns": (
        {
            "prompt": "2+2=",
            "chosen": "4",
            "rejected": "5",
            "system": "Be brief",
            "score": 3,
            "images": [],
            "image": None,
        },
        PairFormat.STANDARD,
        ("2+2=", "4", "5"),
    ),
    "implicit": (
        {"chosen": "2+2= 4", "rejected": "2+2= 5"},
        PairFormat.STANDARD_IMPLICIT,
        ("2+2=", " 4", " 5"),
    ),
    "implicit, prompt null": (
        {"prompt": None, "chosen": "2+2=4", "rejected": "2+2=5"},
        PairFormat.STANDARD_IMPLICIT,
        ("2+2=", "4", "5"),
    ),
    "implicit, first letters of the answers shared": (
        {"chosen": "Say: Hello", "rejected": "Say: Help"},
        PairFormat.STANDARD_IMPLICIT,
        ("Say: Hel", "lo", "p"),
    ),
    "implicit, one starts with the other": (
        {"chosen": "abc", "rejected": "abcde"},
        PairFormat.STANDARD_IMPLICIT,
        ("ab", "c", "cde"),
    ),
    "implicit, nothing shared": (
        {"chosen": "abc", "rejected": "xyz"},
        PairFormat.STANDARD_IMPLICIT,
        ("", "abc", "xyz"),
    ),
    "implicit, nothing shared, chosen ends with a space": (
        {"chosen": "abc ", "rejected": "xyz"},
        PairFormat.STANDARD_IMPLICIT,
        ("abc", " ", "z"),
    ),
    "transcript": (
        {"chosen": "\n\nHuman: hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: hi\n\nAssistant: Go."},
        PairFormat.TRANSCRIPT,
        ("\n\nHuman: hi\n\nAssistant:", " Hello.", " Go."),
    ),
    "transcript with its prompt": (
        {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"},
        PairFormat.STANDARD,
        ("\n\nHuman: hi\n\nAssistant:", "\n\nAssistant: a", "\n\nAssistant: b"),
    ),
    "half a transcript": (
        {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi"},
        PairFormat.STANDARD_IMPLICIT,
        ("\n\nHuman: h", "i\n\nAssistant: a", "i"),
    ),
    "conversational": (
        {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
        PairFormat.CONVERSATIONAL,
        ([user("2+2?")], [assistant("4")], [assistant("5")]),
    ),
    "conversational implicit": (
        {
            "chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
            "rejected": [user("a"), assistant("b"), user("c"), assistant("e")],
        },
        PairFormat.CONVERSATIONAL_IMPLICIT,
        ([user("a"), assistant("b"), user("c")], [assistant("d")], [assistant("e")]),
    ),
    "conversational implicit, parting in the middle": (
        {"chosen": [user("a"), assistant("b"), user("c")], "rejected": [user("a"), assistant("x")]},
        PairFormat.CONVERSATIONAL_IMPLICIT,
        ([user("a")], [assistant("b"), user("c")], [assistant("x")]),
    ),
    "conversational implicit, one starts with the other": (
        {"chosen": [user("a"), assistant("b"), user("c")], "rejected": [user("a"), assistant("b")]},
        PairFormat.CONVERSATIONAL_IMPLICIT,
        ([user("a")], [assistant("b"), user("c")], [assistant("b")]),
    ),
    "text blocks": (
        {
            "prompt": [user([{"type": "text", "text": "a"}])],
            "chosen": [assistant([{"type": "text", "text": "b"}])],
            "rejected": [assistant("c")],
        },
        PairFormat.CONVERSATIONAL,
        ([user([{"type": "text", "text": "a"}])], [assistant([{"type": "text", "text": "b"}])], [assistant("c")]),
    ),
    "an answer that is only a call": (
        {"prompt": [user("time?")], "chosen": [CALL], "rejected": [assistant("noon")]},
        PairFormat.CONVERSATIONAL,
        ([user("time?")], [CALL], [assistant("noon")]),
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_gives_the_pair_written_here(name: str) -> None:
    row, pair_format, texts = SIGNATURES[name]
    before = copy.deepcopy(row)
    pair = pair_of(row)
    assert pair.format == pair_format.value
    assert (pair.prompt, pair.chosen, pair.rejected) == texts
    assert (pair.index, pair.line) == (7, 11)
    assert (pair.tools, pair.chat_template_kwargs) == (None, {})
    assert row == before


@pytest.mark.parametrize("tools", [[CLOCK], json.dumps([CLOCK])], ids=["list", "text"])
def test_tools_and_template_arguments_are_kept(tools: Any) -> None:
    row = {**SIGNATURES["conversational"][0], "tools": tools, "chat_template_kwargs": {"thinking": False}}
    pair = pair_of(row)
    assert pair.tools == [CLOCK]
    assert pair.chat_template_kwargs == {"thinking": False}


@pytest.mark.parametrize("tools", [None, "null"])
def test_no_tools_are_none(tools: Any) -> None:
    pair = pair_of({**SIGNATURES["conversational"][0], "tools": tools, "chat_template_kwargs": None})
    assert (pair.tools, pair.chat_template_kwargs) == (None, {})


STANDARD: Row = SIGNATURES["standard"][0]
CHAT: Row = SIGNATURES["conversational"][0]

MIXED = "; all must be strings, or all lists of messages"

SKIPPED: dict[str, tuple[Any, str, str, bool]] = {
    "null chosen": ({**STANDARD, "chosen": None}, "null", '"chosen" is null', True),
    "null rejected": ({**CHAT, "rejected": None}, "null", '"rejected" is null', True),
    "both null": ({"chosen": None, "rejected": None}, "null", '"chosen" is null', True),
    "empty string, implicit": (
        {"chosen": "a", "rejected": ""},
        "empty",
        '"rejected" is empty; TRL does not accept that',
        True,
    ),
    "no messages": ({**CHAT, "rejected": []}, "empty", '"rejected" is empty; TRL does not accept that', True),
    "identical": ({**STANDARD, "chosen": "5"}, "identical", "the two answers are the same", True),
    "identical, implicit": ({"chosen": "ab", "rejected": "ab"}, "identical", "the two answers are the same", True),
    "identical messages": (
        {**CHAT, "chosen": [assistant("5")]},
        "identical",
        "the two answers are the same",
        True,
    ),
    "a list": ([STANDARD], "malformed", "a list where an object was expected", False),
    "a string": ("chosen", "malformed", "a string where an object was expected", False),
    "null": (None, "malformed", "a null where an object was expected", False),
    "a number": (1.5, "malformed", "a number where an object was expected", False),
    "a boolean": (True, "malformed", "a boolean where an object was expected", False),
    "no columns": ({}, "malformed", "no column 'chosen' and no column 'rejected'; columns: none", False),
    "no rejected": (
        {"chosen": "a", "question": "q"},
        "malformed",
        "no column 'rejected'; columns: chosen, question",
        False,
    ),
    "other names": (
        {"accepted": "a"},
        "malformed",
        "no column 'chosen' and no column 'rejected'; columns: accepted",
        False,
    ),
    "KTO": (
        {"prompt": "q", "completion": "a", "label": True},
        "malformed",
        'unpaired data ("completion" and "label"): a pair needs both answers',
        False,
    ),
    "stepwise": (
        {"prompt": "q", "completions": ["a"], "labels": [True]},
        "malformed",
        'stepwise data ("completions" and "labels"): not preference pairs',
        False,
    ),
    **{
        name: (
            {**CHAT, name: ["a.png"]},
            "malformed",
            f'"{name}": vision and audio pairs cannot be measured',
            False,
        )
        for name in ("image", "images", "videos", "audios")
    },
    "string and list": (
        {**STANDARD, "rejected": [assistant("5")]},
        "malformed",
        f'"prompt" is a string, "chosen" a string, "rejected" a list{MIXED}',
        True,
    ),
    "number as the prompt of conversations": (
        {**CHAT, "prompt": 4},
        "malformed",
        f'"prompt" is a number, "chosen" a list, "rejected" a list{MIXED}',
        True,
    ),
    "numbers": ({"chosen": 4, "rejected": 5.0}, "malformed", f'"chosen" a number, "rejected" a number{MIXED}', True),
    "one conversation": (
        {"messages": [user("q"), assistant("a")]},
        "malformed",
        "one conversation without a rejected answer: supervised training data, not pairs",
        False,
    ),
    "strings for messages": (
        {**CHAT, "chosen": ["4"]},
        "malformed",
        "a list of texts where messages were expected; use --map with COLUMN.0 for one text",
        True,
    ),
    "a role that is no text": (
        {**CHAT, "rejected": [{"role": 1, "content": "a"}]},
        "malformed",
        '"rejected" has an item that is not a message with a role',
        True,
    ),
    "an image block": (
        {**CHAT, "prompt": [user([{"type": "text", "text": "a"}, {"type": "image"}])]},
        "malformed",
        '"prompt" has content that is not text',
        True,
    ),
    "a bare string block": (
        {**CHAT, "chosen": [assistant(["a"])]},
        "malformed",
        '"chosen" has content that is not text',
        True,
    ),
    "no prompt messages": ({**CHAT, "prompt": []}, "malformed", '"prompt" is an empty list of messages', True),
    "no shared message": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("b")]},
        "malformed",
        "the two conversations share no first message",
        True,
    ),
    "broken tools": (
        {**CHAT, "tools": "[{"},
        "malformed",
        '"tools" is not JSON: Expecting property name enclosed in double quotes: line 1 column 3 (char 2)',
        True,
    ),
    "tools that are one object": ({**CHAT, "tools": CLOCK}, "malformed", '"tools" is a object', True),
    "tools that are a text of something else": ({**CHAT, "tools": '"a"'}, "malformed", '"tools" is a string', True),
    "template arguments that are a list": (
        {**CHAT, "chat_template_kwargs": [1]},
        "malformed",
        '"chat_template_kwargs" is a list',
        True,
    ),
}


EMPTY: dict[str, Row] = {
    "string": {**STANDARD, "chosen": ""},
    "content": {**CHAT, "chosen": [assistant("")]},
    "null content": {**CHAT, "chosen": [assistant(None)]},
    "no content": {**CHAT, "chosen": [{"role": "assistant"}]},
    "no blocks": {**CHAT, "chosen": [assistant([])]},
    "no calls": {**CHAT, "chosen": [{**CALL, "tool_calls": []}]},
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_answer_is_a_pair_as_in_trl_and_is_said(name: str) -> None:
    assert pair_of(EMPTY[name]).warnings == ("W-EMPTY-ANSWER",)


@pytest.mark.parametrize("name", SKIPPED)
def test_a_row_that_is_no_pair_is_skipped_with_its_reason(name: str) -> None:
    row, reason, detail, holds_pair = SKIPPED[name]
    assert read(row) == SkippedRow(7, 11, reason, detail, pair_id=None, holds_pair=holds_pair)


def test_a_row_that_could_not_be_read_keeps_its_problem() -> None:
    row = RawRow(3, None, 4, "broken JSON at column 2: x")
    assert only_pair(row) == SkippedRow(3, 4, "malformed", "broken JSON at column 2: x", holds_pair=False)


@pytest.mark.parametrize("content", [{"type": "image"}, 5, True], ids=str)
def test_content_that_is_neither_text_nor_blocks_is_malformed(content: Any) -> None:
    skipped = read({**CHAT, "prompt": [user(content)]})
    assert isinstance(skipped, SkippedRow)
    assert (skipped.reason, skipped.detail) == ("malformed", '"prompt" has content that is not text')


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "row",
    [{**CHAT, "tools": "[" * 100_000}, {**CHAT, "chat_template_kwargs": {"deep": nested(900)}}],
    ids=["tools", "arguments"],
)
def test_deeply_nested_values_are_malformed(row: Row) -> None:
    skipped = read(row)
    assert isinstance(skipped, SkippedRow)
    assert skipped.reason == "malformed"


SAME: list[Row] = [
    {**CHAT, "tools": [CLOCK], "chat_template_kwargs": {"thinking": True}},
    {
        "prompt": [{"role": "system", "content": "é🙂 \u2028"}, {**user("time?"), "name": "Ann"}],
        "chosen": [CALL],
        "rejected": [{**assistant("noon"), "name": "Bot"}],
    },
    {**CHAT, "prompt": [user('two\nlines, "quoted"')]},
]
"""Rows with messages that have different keys. Columnar formats fill the missing keys with nulls."""


def ids_of(path: Path) -> list[str]:
    pairs = [only_pair(row) for row in open_source(str(path)).rows()]
    assert all(isinstance(pair, PreferencePair) for pair in pairs), pairs
    return [pair.pair_id for pair in pairs if isinstance(pair, PreferencePair)]


def turned_round(value: Any) -> Any:
    """The same value with the keys of every object in reverse order."""
    if isinstance(value, dict):
        return {key: turned_round(item) for key, item in reversed(value.items())}
    return [turned_round(item) for item in value] if isinstance(value, list) else value


def test_the_same_pairs_have_the_same_ids_in_any_file(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SAME))
    (tmp_path / "b.json").write_text(json.dumps(turned_round(SAME), indent=1))
    pq.write_table(pa.Table.from_pylist(SAME), tmp_path / "c.parquet")
    datasets.Dataset.from_list(SAME).save_to_disk(tmp_path / "saved")
    ids = ids_of(tmp_path / "a.jsonl")
    assert len(set(ids)) == 3
    columnar = next(iter(open_source(str(tmp_path / "c.parquet")).rows())).value
    assert columnar["prompt"][0] == {"role": "user", "content": "2+2?", "name": None}
    for name in ("b.json", "c.parquet", "saved"):
        assert ids_of(tmp_path / name) == ids


def test_the_ids_in_a_csv_are_those_of_the_same_messages(tmp_path: Path) -> None:
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in SAME] + [STANDARD]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "b.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows([cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()] for row in rows)
    assert ids_of(tmp_path / "b.csv") == ids_of(tmp_path / "a.jsonl")


def test_a_csv_holds_tools_and_template_arguments(tmp_path: Path) -> None:
    with (tmp_path / "b.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*STANDARD, "tools", "chat_template_kwargs"])
        writer.writerow([*STANDARD.values(), "", ""])
        writer.writerow([*STANDARD.values(), "[]", '{"thinking": true}'])
    same = [STANDARD, {**STANDARD, "chat_template_kwargs": {"thinking": True}}]
    assert ids_of(tmp_path / "b.csv") == [pair_of(row).pair_id for row in same]


@pytest.mark.parametrize("row", SAME, ids=["tools", "names", "quotes"])
def test_nulls_of_columnar_files_do_not_reach_the_text(row: Row, tmp_path: Path) -> None:
    """The pairs of both files render the same text, so one id stands for one measurement."""
    pq.write_table(pa.Table.from_pylist(SAME), tmp_path / "a.parquet")
    columnar = only_pair(list(open_source(str(tmp_path / "a.parquet")).rows())[SAME.index(row)])
    assert isinstance(columnar, PreferencePair)
    tokenizer = small_tokenizer()
    tokenizer.chat_template = "{{ tools | tojson }}{% for message in messages %}{{ message | tojson }}{% endfor %}"
    texts = [
        tokenizer.apply_chat_template(pair.prompt + pair.chosen, tools=pair.tools, tokenize=False)
        for pair in (columnar, pair_of(row))
    ]
    assert texts[0] == texts[1]


FULL: Row = {
    "prompt": [{"role": "user", "content": "time?", "name": "Ann"}],
    "chosen": [CALL, assistant("noon")],
    "rejected": [assistant("no")],
    "tools": [CLOCK],
    "chat_template_kwargs": {"thinking": True},
}

CHANGES: dict[str, Row] = {
    "prompt": {"prompt": [{"role": "user", "content": "time? ", "name": "Ann"}]},
    "role": {"prompt": [{"role": "system", "content": "time?", "name": "Ann"}]},
    "another key": {"prompt": [user("time?")]},
    "one message more": {"prompt": [{"role": "user", "content": "time?", "name": "Ann"}, user("")]},
    "chosen": {"chosen": [CALL, assistant("Noon")]},
    "call": {"chosen": [{**CALL, "tool_calls": [CLOCK, CLOCK]}, assistant("noon")]},
    "order": {"chosen": [assistant("noon"), CALL]},
    "rejected": {"rejected": [assistant("no.")]},
    "swapped": {"chosen": FULL["rejected"], "rejected": FULL["chosen"]},
    "tools": {"tools": []},
    "argument": {"chat_template_kwargs": {"thinking": False}},
    "no argument": {"chat_template_kwargs": {}},
}


def test_any_change_of_a_pair_changes_its_id() -> None:
    ids = {name: pair_of({**FULL, **change}).pair_id for name, change in {"none": {}, **CHANGES}.items()}
    assert len(set(ids.values())) == len(CHANGES) + 1, ids
    assert all(len(identity) == 32 and int(identity, 16) >= 0 for identity in ids.values())


def test_other_columns_and_places_do_not_change_the_id() -> None:
    one = only_pair(RawRow(0, {**FULL, "score": 3}, 1))
    other = only_pair(RawRow(5, {**FULL, "score": 4, "id": "x"}, None))
    assert isinstance(one, PreferencePair)
    assert isinstance(other, PreferencePair)
    assert one.pair_id == other.pair_id


def test_text_is_not_confused_with_its_place() -> None:
    """The end of the prompt is part of the pair, and a text differs from the list that it spells."""
    ids = [
        pair_id("ab", "c", "d", None, {}),
        pair_id("a", "bc", "bd", None, {}),
        pair_id("ab", "c", "d", ["c"], {}),
        pair_id('[{"role": "user"}]', "c", "d", None, {}),
        pair_id([{"role": "user"}], "c", "d", None, {}),
    ]
    assert len(set(ids)) == len(ids)


def test_the_id_of_a_known_pair_stays() -> None:
    """Runs of different versions are compared by these ids. A new recipe would change the id of every old pair.

    The number is BLAKE2b-128 of `["2+2=","4","5",null,null]`, computed by b2sum.
    """
    assert pair_of(STANDARD).pair_id == "ab0407e6964e04170946d434c7fba9d6"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["user", "text", "[]", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": JSON | st.sampled_from(["user", "assistant"])}, optional={"content": JSON, "tool_calls": JSON}
    ),
    max_size=3,
)
ANSWER = JSON | st.text() | MESSAGES
ROWS = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"chosen": ANSWER, "rejected": ANSWER},
        optional={"prompt": ANSWER, "tools": JSON, "chat_template_kwargs": JSON, "images": JSON},
    ),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("completion", "label", "completions", "labels", "prompt"), JSON)),
)


@given(ROWS)
@settings(max_examples=400, deadline=None)
@example({"chosen": [{"role": "user", "content": [{"type": "text"}]}], "rejected": [{"role": "user"}]})
@example({"chosen": [[]], "rejected": [{}]})
@example({"prompt": [{"role": "user"}], "chosen": "", "rejected": "0"})
@example({"chosen": "\ud800", "rejected": "\udfff"})
@example({"prompt": "", "chosen": "a", "rejected": "b", "tools": '["\\ud800"]', "chat_template_kwargs": {"\udfff": 1}})
def test_no_row_raises(row: Any) -> None:
    result = read(row)
    assert isinstance(result, PreferencePair | SkippedRow)
    assert (result.index, result.line) == (7, 11)
    if isinstance(result, SkippedRow):
        assert result.reason in {"malformed", "null", "empty", "identical"}
        assert result.detail
        return
    kinds = {type(text) for text in (result.prompt, result.chosen, result.rejected)}
    assert kinds in ({str}, {list})
    assert len(result.pair_id) == 32
    if row.get("prompt") is None:
        assert (result.prompt, result.chosen, result.rejected) == extract_prompt(row["chosen"], row["rejected"])
    elif isinstance(row["prompt"], list) and isinstance(row["chosen"], str):
        # Messages before two plain answers: the answers become messages too.
        answers = [[{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")]
        assert (result.prompt, result.chosen, result.rejected) == (row["prompt"], *answers)
    else:
        assert (result.prompt, result.chosen, result.rejected) == (row["prompt"], row["chosen"], row["rejected"])
