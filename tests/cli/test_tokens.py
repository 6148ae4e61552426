"""`entangle tokens`: one pair token by token, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

import entangle_cli
from entangle_cli.diagnose.tokens import token_texts
from entangle_cli.errors import UsageError
from entangle_cli.report.figures import heat_map
from tests.cli.conftest import LONG, MODEL, Entangle

SIDES = ("chosen", "rejected")


def test_the_gram_adds_up_to_what_a_scan_measures(entangle: Entangle) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "4", "-q", "-o", "run", "--json", "run.json").code == 0
    pair = json.loads(Path("run.json").read_text())["pairs"][3]
    outcome = entangle("tokens", MODEL, LONG, "--row", "3", "--json", "tokens.json", "--npy", "gram.npy")
    assert outcome.code == 0, outcome.err
    document, gram = json.loads(Path("tokens.json").read_text()), np.load("gram.npy")
    assert np.allclose(gram, document["inner_products"])
    count = pair["chosen_tokens"]
    assert gram.shape == (count + pair["rejected_tokens"],) * 2
    assert gram[:count, :count].sum() == pytest.approx(pair["chosen_grad_norm"] ** 2, rel=1e-5)
    assert gram[count:, count:].sum() == pytest.approx(pair["rejected_grad_norm"] ** 2, rel=1e-5)
    assert gram[:count, count:].sum() == pytest.approx(pair["inner_product"], rel=1e-5)
    assert document["pair"]["pair_id"] == pair["pair_id"]
    for side in ("chosen", "rejected"):
        own = [token for token in document["tokens"] if token["answer"] == side]
        assert sum(token["log_prob"] for token in own) == pytest.approx(pair[f"{side}_log_prob"], rel=1e-6)
        assert sum(token["delta"] for token in own) == pytest.approx(pair[f"{side}_delta"], rel=1e-3)
        pushes = sum(token[f"pushes_{side}"] for token in document["tokens"])
        assert pushes == pytest.approx(pair[f"{side}_delta"], rel=1e-3)
    assert document["masks"][0]["movement"] == pair["movement"]


def test_roles_are_where_the_answers_differ(entangle: Entangle, rows_file: Callable[..., Path]) -> None:
    path = rows_file([{"prompt": "The owl", "chosen": " is awake now.", "rejected": " is asleep now."}])
    assert entangle("tokens", MODEL, path, "--row", "0", "--json", "t.json").code == 0
    tokens = json.loads(Path("t.json").read_text())["tokens"]
    chosen = [token for token in tokens if token["answer"] == "chosen"]
    assert [token["role"] for token in chosen if token["text"] == " is"] == ["prefix"]
    assert {token["role"] for token in chosen} >= {"prefix", "contrastive", "shared"}
    assert "".join(token["text"] for token in chosen).startswith(" is awake now.")


def test_the_loss_weighs_the_pushes(entangle: Entangle) -> None:
    for words, name in ((("--beta", "0.1"), "a.json"), (("--beta", "0.2"), "b.json")):
        assert entangle("tokens", MODEL, LONG, "--row", "0", "--json", name, *words).code == 0
    one, other = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert other["tokens"][0]["delta"] == pytest.approx(2 * one["tokens"][0]["delta"], rel=1e-3)
    assert other["tokens"][0]["grad_norm"] == pytest.approx(one["tokens"][0]["grad_norm"], rel=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--row", "9"), 2, "--row 9: the data have 3 rows"),
        (("--row", "1"), 5, "identical"),
        (("--row", "0", "--pair-in-row", "1"), 2, "the row has 1"),
        (("--row", "0", "--loss", "dpoo"), 2, "dpoo"),
        (("--row", "0", "--npy", "no/such/file"), 2, "--npy no/such/file"),
    ],
)
def test_what_cannot_be_shown(
    entangle: Entangle, rows_file: Callable[..., Path], words: tuple[str, ...], code: int, message: str
) -> None:
    pair = {"prompt": "The owl is", "chosen": " awake.", "rejected": " asleep."}
    outcome = entangle("tokens", MODEL, rows_file([pair, {**pair, "rejected": " awake."}, pair]), *words)
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err


def test_eighty_columns_are_enough(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = entangle("tokens", MODEL, LONG, "--row", "0").out
    assert max(map(len, out.splitlines())) <= 80
    for words in ("sums over tokens", "If a role's tokens were left out", "contrastive", "inner_product"):
        assert words in out


def test_a_terminal_that_is_too_narrow_cuts_no_number(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert "…" not in entangle("tokens", MODEL, LONG, "--row", "0").out


def test_a_masked_role_counts_neither_in_the_log_prob_nor_in_the_length(
    entangle: Entangle, rows_file: Callable[..., Path]
) -> None:
    """SimPO without a margin has coefficients 1 / length. Without the shared words, the shorter answer weighs more."""
    path = rows_file([{"prompt": "The owl", "chosen": " is awake now.", "rejected": " is asleep and very old now."}])
    words = ("--loss", "simpo", "--json", "t.json")
    assert entangle("tokens", MODEL, path, "--row", "0", *words).code == 0
    document = json.loads(Path("t.json").read_text())
    gram = np.array(document["inner_products"])
    tokens = document["tokens"]
    case = next(case for case in document["masks"] if case["masked"] == "shared")
    weights = [0.0 if token["role"] == "shared" else 1.0 for token in tokens]
    sides = [
        np.array([(token["answer"] == side) * w for token, w in zip(tokens, weights, strict=True)]) for side in SIDES
    ]
    means = [sum(t["log_prob"] * w for t, w in zip(tokens, side, strict=True)) / side.sum() for side in sides]
    beta, gamma = document["loss"]["beta"], 0.5
    push = beta / (1 + np.exp(beta * (means[0] - means[1]) - gamma))
    step = push * (sides[0] / sides[0].sum() - sides[1] / sides[1].sum())
    own = np.array([token["answer"] == "chosen" for token in tokens], dtype=float)
    assert case["chosen_delta"] == pytest.approx(own @ gram @ step, rel=1e-4)


def test_answers_of_hundreds_of_tokens_have_a_page_of_some_megabytes() -> None:
    random = np.random.default_rng(0)
    cosines = np.clip(random.normal(0, 0.3, (900, 900)), -1, 1)
    cosines[:, 5] = np.nan
    markup = str(heat_map(cosines, [["a"] * 400, ["b"] * 500]))
    assert len(markup) < 4_000_000
    assert markup.count("<rect") <= 150 * 150
    assert "nan" not in markup


def test_few_tokens_have_their_names_on_the_map() -> None:
    markup = str(heat_map(np.full((4, 4), 0.5), [["[<b>]", "[two]"], ["[a very long token]", "[&]"]]))
    assert "[&lt;b&gt;]" in markup
    assert "[a very l~" in markup
    assert "[&amp;]" in markup


def test_a_terminal_needs_no_whole_matrix() -> None:
    report = entangle_cli.tokens(MODEL, LONG, 3, with_gram=False)
    whole = entangle_cli.tokens(MODEL, LONG, 3)
    assert report.document == whole.document
    count = sum(token["answer"] == "chosen" for token in whole.document["tokens"])
    np.testing.assert_array_equal(report.shown_cosines, whole.cosines[: min(count, 40), count:][:, :40])
    with pytest.raises(UsageError, match="without its Gram matrix"):
        report.npy()


def test_tokens_are_shown_as_they_stand_in_the_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = " The rain in Spain, again."
    assert "".join(token_texts(tokenizer, tokenizer(text, add_special_tokens=False).input_ids)) == text
    halves = token_texts(tokenizer, tokenizer(" \u00e9", add_special_tokens=False).input_ids)
    assert not any("\ufffd" in half for half in halves)
