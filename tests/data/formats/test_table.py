"""Formats of other data sets: an invented row of each, and its pair, written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.data.formats.table import FORMATS, recognised
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.errors import UsageError
from tests.data.reading import only_pair

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "2+2?"), ("assistant", "4"), ("assistant", "5"))
)

SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {}}}]}

ROWS: dict[str, tuple[dict[str, Any], tuple[Any, Any, Any]]] = {
    "ultrafeedback": (
        {"prompt": "2+2?", "prompt_id": "x", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 8.0},
        ([USER], [GOOD], [BAD]),
    ),
    "ultrafeedback, answers alone": (
        {"prompt": "2+2?", "chosen": [GOOD], "rejected": [BAD]},
        ([USER], [GOOD], [BAD]),
    ),
    "argilla": (
        {"instruction": "2+2?", "chosen_response": "4", "rejected_response": "5"},
        ("2+2?", "4", "5"),
    ),
    "pku": (
        {"prompt": "2+2?", "response_0": "5", "response_1": "4", "better_response_id": 1, "safer_response_id": 1},
        ("2+2?", "4", "5"),
    ),
    "pku, one label": (
        {"prompt": "2+2?", "response_0": "4", "response_1": "5", "safer_response_id": 0},
        ("2+2?", "4", "5"),
    ),
    "helpsteer2": (
        {"prompt": "2+2?", "response_1": "5", "response_2": "4", "preference_strength": 2},
        ("2+2?", "4", "5"),
    ),
    "helpsteer3": (
        {"context": [USER], "response1": "4", "response2": "5", "overall_preference": -1},
        ([USER], [GOOD], [BAD]),
    ),
    "nectar": (
        {
            "prompt": "\n\nHuman: 2+2?\n\nAssistant: ",
            "answers": [{"answer": "5", "rank": 3.0}, {"answer": "4", "rank": 1.0}, {"answer": "four", "rank": 2.0}],
        },
        ("\n\nHuman: 2+2?\n\nAssistant: ", "4", "5"),
    ),
    "nemo-rl": (
        {
            "context": [USER],
            "completions": [{"rank": 0, "completion": [GOOD]}, {"rank": 1, "completion": [BAD]}],
        },
        ([USER], [GOOD], [BAD]),
    ),
    "sharegpt, tool call": (
        {
            "conversations": [
                {"from": "human", "value": "2+2?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {}}'},
                {"from": "observation", "value": "4"},
            ],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        (
            [
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {}}}],
                },
                {"role": "tool", "content": "4"},
            ],
            [GOOD],
            [BAD],
        ),
    ),
    "shp": (
        {"history": "2+2?", "human_ref_A": "4", "human_ref_B": "5", "labels": 1, "score_ratio": 2.5},
        ("2+2?", "4", "5"),
    ),
    "shp, B": (
        {"history": "2+2?", "human_ref_A": "5", "human_ref_B": "4", "labels": 0},
        ("2+2?", "4", "5"),
    ),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
            "system": "Be brief.",
        },
        ([{"role": "system", "content": "Be brief."}, USER], [GOOD], [BAD]),
    ),
    "axolotl messages": ({"messages": [USER], "chosen": GOOD, "rejected": BAD}, ([USER], [GOOD], [BAD])),
    "openai": (
        {"input": {"messages": [USER], "tools": []}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        ([USER], [GOOD], [BAD]),
    ),
    "summarize, posts": (
        {
            "info": {"post": "A long day.", "title": "Day", "subreddit": "life"},
            "summaries": [{"text": "Short."}, {"text": " A day. "}],
            "choice": 1,
        },
        ("SUBREDDIT: r/life\nTITLE: Day\nPOST: A long day.\nTL;DR:", " A day.", " Short."),
    ),
    "summarize, articles": (
        {"info": {"article": "News."}, "summaries": [{"text": "N."}, {"text": "M."}], "choice": 0},
        ("ARTICLE: News.\nTL;DR:", " N.", " M."),
    ),
}


ROWS |= {
    "ms-swift, a rejected response": (
        {"messages": [SYSTEM, USER, GOOD], "rejected_response": "5"},
        ([SYSTEM, USER], [GOOD], [BAD]),
    ),
    "ms-swift, rejected messages": (
        {"messages": [USER, GOOD], "rejected_messages": [USER, BAD], "system": "Be brief."},
        ([SYSTEM, USER], [GOOD], [BAD]),
    ),
    "ms-swift, tool calls are answered too": (
        {"messages": [USER, CALL, {"role": "tool", "content": "4"}, GOOD], "rejected_response": [BAD]},
        ([USER], [CALL, {"role": "tool", "content": "4"}, GOOD], [BAD]),
    ),
    "ms-swift, a query": (
        {"query": "2+2?", "response": "4", "rejected_response": "5", "system": "Be brief.", "history": [["Hi", "Hey"]]},
        (
            [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hey"}, USER],
            [GOOD],
            [BAD],
        ),
    ),
    "ms-swift, an instruction": (
        {"instruction": "Add.", "input": "2+2", "output": "4", "rejected_response": "5"},
        ([{"role": "user", "content": "Add.\n2+2"}], [GOOD], [BAD]),
    ),
    "oumi": ({"messages": [USER], "chosen": [GOOD], "rejected": [BAD]}, ([USER], [GOOD], [BAD])),
    "OpenRLHF, a list and texts": ({"prompt": [USER], "chosen": "4", "rejected": "5"}, ([USER], [GOOD], [BAD])),
    "a text and objects": ({"prompt": "2+2?", "chosen": GOOD, "rejected": BAD}, ([USER], [GOOD], [BAD])),
    "ShareGPT's words in TRL's columns": (
        {
            "prompt": [{"from": "human", "value": "2+2?"}],
            "chosen": [{"from": "gpt", "value": "4"}],
            "rejected": [{"from": "gpt", "value": "5"}],
        },
        ([USER], [GOOD], [BAD]),
    ),
    "torchtune": (
        {"chosen_conversations": [USER, GOOD], "rejected_conversations": [USER, BAD]},
        ([USER], [GOOD], [BAD]),
    ),
    "webgpt": (
        {
            "question": {"dataset": "d", "id": "1", "full_text": "2+2?"},
            "answer_0": "5",
            "answer_1": "4",
            "score_0": -0.5,
            "score_1": 0.5,
        },
        ("2+2?", "4", "5"),
    ),
    "arena": (
        {
            "prompt": '["2+2?"]',
            "response_a": '["5"]',
            "response_b": '["4"]',
            "winner_model_a": 0,
            "winner_model_b": 1,
            "winner_tie": 0,
        },
        ([USER], [GOOD], [BAD]),
    ),
    "arena-conversations": (
        {"conversation_a": [USER, GOOD], "conversation_b": [USER, BAD], "winner": "model_a"},
        ([USER], [GOOD], [BAD]),
    ),
    "stack-exchange": (
        {
            "qid": 1,
            "question": "2+2?",
            "answers": [
                {"text": "5", "pm_score": 0, "selected": False},
                {"text": "4", "pm_score": 3, "selected": True},
            ],
        },
        ("2+2?", "4", "5"),
    ),
    "ultrafeedback-raw": (
        {
            "instruction": "2+2?",
            "completions": [
                {"response": "5", "overall_score": 10.0, "fine-grained_score": 1.0},
                {"response": "4", "overall_score": 8.0, "fine-grained_score": 4.5},
            ],
        },
        ([USER], [GOOD], [BAD]),
    ),
    "ultrafeedback-raw without fine grains": (
        {"instruction": "2+2?", "completions": [{"response": a, "overall_score": s} for a, s in (("5", 1), ("4", 2))]},
        ([USER], [GOOD], [BAD]),
    ),
    "output-list": ({"instruction": "2+2?", "input": "", "output": ["4", "5"]}, ([USER], [GOOD], [BAD])),
    "several-rejected": ({"prompt": "2+2?", "chosen": "4", "rejected": ["5", "6"]}, ("2+2?", "4", "5")),
    "helpsteer2-pointwise": (
        {"prompt": "2+2?", "scored": [{"answer": "5", "helpfulness": 1}, {"answer": "4", "helpfulness": 4}]},
        ("2+2?", "4", "5"),
    ),
}


def read(row: Any) -> PreferencePair | SkippedRow:
    return only_pair(RawRow(index=0, line=1, value=row))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_the_pair_that_it_holds(name: str) -> None:
    row, expected = ROWS[name]
    pair = read(row)
    assert isinstance(pair, PreferencePair), pair
    assert (pair.prompt, pair.chosen, pair.rejected) == expected
    assert [known.title for known in recognised(row)] == [pair.format]


HH = "\n\nHuman: hi\n\nAssistant: Hey.\n\nHuman: 2+2?\n\nAssistant:"
FORCED: dict[str, tuple[str, dict[str, Any], tuple[Any, Any, Any]]] = {
    "pku-better": (
        "pku-better",
        {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
        ("q", "b", "a"),
    ),
    "pku-safer": (
        "pku-safer",
        {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
        ("q", "a", "b"),
    ),
    "hh": ("hh", {"chosen": HH + " Four.", "rejected": HH + " Forty."}, (HH, " Four.", " Forty.")),
    "hh, TRL's own reading": (
        "trl",
        {"chosen": HH + " Four.", "rejected": HH + " Forty."},
        (HH + " Fo", "ur.", "rty."),
    ),
    "orca": (
        "orca",
        {"system": "Be brief.", "question": "2+2?", "chosen": "4", "rejected": "5"},
        ([{"role": "system", "content": "Be brief."}, USER], [GOOD], [BAD]),
    ),
    "turns": (
        "turns",
        {"trajectory": [{"from": "user", "value": "2+2?"}], "chosen": "4", "rejected": "5"},
        ([USER], [GOOD], [BAD]),
    ),
    "step-dpo": (
        "step-dpo",
        {"prompt": "2+2?", "initial_reason_steps": "Step 1:", "chosen": " 4", "rejected": " 5"},
        ("2+2?\nStep 1:", " 4", " 5"),
    ),
    "alpaca": (
        "alpaca",
        {"instruction": "Add.", "input": "2+2", "chosen": "4", "rejected": "5", "history": [["Hi", "Hey"]]},
        (
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hey"},
                {"role": "user", "content": "Add.\n2+2"},
            ],
            [GOOD],
            [BAD],
        ),
    ),
}


@pytest.mark.parametrize("name", FORCED)
def test_a_format_that_the_user_names(name: str) -> None:
    data_format, row, expected = FORCED[name]
    pair = only_pair(RawRow(index=0, line=1, value=row), data_format)
    assert isinstance(pair, PreferencePair), pair
    assert (pair.prompt, pair.chosen, pair.rejected) == expected


def test_every_format_has_a_row_here() -> None:
    by_columns = {known.name for row, _ in ROWS.values() for known in recognised(row)}
    assert by_columns | {data_format for data_format, _, _ in FORCED.values()} - {"trl"} == {
        known.name for known in FORMATS
    }


def test_transcripts_without_a_shared_turn_say_so() -> None:
    row = RawRow(index=0, line=1, value={"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c"})
    skipped = only_pair(row, "hh")
    assert isinstance(skipped, SkippedRow)
    assert "share no assistant turn" in skipped.detail


def test_a_format_that_does_not_fit_says_so() -> None:
    skipped = only_pair(RawRow(index=0, line=1, value={"prompt": "q", "chosen": "a", "rejected": "b"}), "orca")
    assert isinstance(skipped, SkippedRow)
    assert "Orca, system and question: no column" in skipped.detail


def test_an_unknown_format_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean alpaca"):
        only_pair(RawRow(index=0, line=1, value={}), "alpacca")


def test_tools_of_an_openai_row_reach_the_template() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    row = {"input": {"messages": [USER], "tools": tools}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}
    pair = read(row)
    assert isinstance(pair, PreferencePair)
    assert pair.tools == tools


@pytest.mark.parametrize(
    "row",
    [
        {
            "prompt": "2+2?",
            "chosen": "4",
            "rejected": "5",
            "response_0": "a",
            "response_1": "b",
            "better_response_id": 0,
        },
        {"chosen": [USER, GOOD], "rejected": [USER, BAD], "conversations": [], "system": "s"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "messages": [USER]},
    ],
)
def test_what_trl_takes_as_it_is_stays_as_it_is(row: dict[str, Any]) -> None:
    pair = read(row)
    assert isinstance(pair, PreferencePair)
    assert pair.format.startswith("TRL")


@pytest.mark.parametrize(
    ("name", "changes", "reason", "detail"),
    [
        ("pku", {"safer_response_id": 0}, "labels_disagree", "better_response_id is 1, safer_response_id is 0"),
        ("pku", {"better_response_id": 2, "safer_response_id": None}, "malformed", "label 2, expected 0 or 1"),
        ("helpsteer2", {"preference_strength": 0}, "tie", "equally preferred"),
        ("helpsteer2", {"preference_strength": "two"}, "malformed", "expected a number"),
        ("helpsteer2", {"preference_strength": float("nan")}, "malformed", "expected a number"),
        ("helpsteer2", {"preference_strength": 10**400}, "malformed", "expected a number"),
        ("helpsteer3", {"overall_preference": 0}, "tie", "equally preferred"),
        ("shp", {"labels": True}, "malformed", "not 0 or 1"),
        ("sharegpt", {"conversations": [{"from": "narrator", "value": "x"}]}, "malformed", "narrator"),
        ("summarize, posts", {"summaries": [{"text": "a"}]}, "malformed", "found 1"),
        ("summarize, posts", {"summaries": 5}, "malformed", "have invalid content"),
        ("summarize, posts", {"info": {}}, "malformed", "neither a post nor an article"),
        ("argilla", {"chosen_response": 4}, "malformed", '"chosen" a number'),
        ("pku", {"response_1": "5"}, "identical", "the same"),
        ("openai", {"images": ["a.png"]}, "malformed", "vision"),
    ],
)
def test_rows_without_a_usable_pair_say_why(name: str, changes: dict[str, Any], reason: str, detail: str) -> None:
    skipped = read({**ROWS[name][0], **changes})
    assert isinstance(skipped, SkippedRow)
    assert skipped.reason == reason
    assert detail in skipped.detail
    assert skipped.holds_pair or reason == "malformed"


def test_two_formats_at_once_are_an_error_that_names_both() -> None:
    skipped = read({**ROWS["shp"][0], **ROWS["helpsteer2"][0]})
    assert isinstance(skipped, SkippedRow)
    assert "HelpSteer2 preference and of SHP" in skipped.detail


NAMES = sorted({name for row, _ in ROWS.values() for name in row})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "messages"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_no_row_is_lost_without_a_reason(row: dict[str, Any]) -> None:
    found = read(row)
    assert isinstance(found, PreferencePair) or (found.reason and found.detail)


@given(st.sampled_from(sorted(ROWS)), st.sampled_from(NAMES), VALUES)
def test_a_damaged_row_is_a_pair_or_has_a_reason(name: str, column: str, value: Any) -> None:
    found = read({**ROWS[name][0], column: value})
    assert isinstance(found, PreferencePair) or (found.reason and found.detail)


@pytest.mark.parametrize("name", ["pku", "helpsteer2", "shp"])
def test_numbers_that_stand_as_text_are_numbers(name: str) -> None:
    """All values as text, as in a CSV file."""
    row, expected = ROWS[name]
    pair = read({column: str(value) if isinstance(value, int | float) else value for column, value in row.items()})
    assert isinstance(pair, PreferencePair), pair
    assert (pair.prompt, pair.chosen, pair.rejected) == expected


def test_scores_stay_beside_the_pair() -> None:
    row = ROWS["ultrafeedback"][0]
    assert read(row).chosen_score == 8.0
    shp = read({**ROWS["shp"][0], "score_A": 10, "score_B": 4})
    assert (shp.chosen_score, shp.rejected_score, shp.preference_strength) == (10, 4, 2.5)
    assert read(ROWS["helpsteer3"][0]).preference_strength == 1
    for score in (10**400, float("nan"), "high", None, [1]):
        assert read({**row, "score_chosen": score}).chosen_score is None
