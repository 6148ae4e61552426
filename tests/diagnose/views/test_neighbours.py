"""Related measures and reference log-probs, against their definitions computed from the models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import entangle_cli
from entangle_cli import LossSettings, PairRecord, ScanSettings
from entangle_cli.errors import ModelError
from tests.oracle import response_gradient
from tests.true_float64 import TrueFloat64

SAMPLE = Path(__file__).resolve().parents[3] / "sample_data"
SETTINGS = ScanSettings(dtype="float64")
ROWS = [
    {"prompt": "The owl is", "chosen": " awake and hungry", "rejected": " asleep and hungry"},
    {"prompt": "The owl is", "chosen": " very kind to all", "rejected": " very rude"},
    {"prompt": "It was", "chosen": " late", "rejected": " early"},
]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(SAMPLE / "model", dtype=torch.float64).eval()


def token_ids(row: dict[str, str], side: str) -> tuple[list[int], int]:
    """Tokens with EOS, and the position of the first scored token."""
    tokenizer = AutoTokenizer.from_pretrained(SAMPLE / "model")
    prompt = tokenizer(row["prompt"])["input_ids"]
    ids = tokenizer(row["prompt"] + row[side] + tokenizer.eos_token)["input_ids"]
    assert ids[: len(prompt)] == prompt
    return ids, len(prompt)


@pytest.fixture
def data(tmp_path: Path) -> Callable[[list[dict[str, object]]], Path]:
    def write(rows: list[dict[str, object]]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_hidden_similarities_are_those_of_the_last_hidden_states(model: PreTrainedModel, data) -> None:
    with TrueFloat64():
        records = entangle_cli.scan(str(SAMPLE / "model"), data(ROWS), SETTINGS)
    for row, record in zip(ROWS, records, strict=True):
        states = []
        for side in ("chosen", "rejected"):
            ids, first = token_ids(row, side)
            with TrueFloat64(), torch.no_grad():
                hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
            states.append(hidden[first - 1 : -1])
        chosen, rejected = (state.sum(0) for state in states)
        assert record.ches == pytest.approx(float(chosen @ rejected - chosen @ chosen), rel=1e-9)
        chosen, rejected = (state.mean(0) for state in states)
        assert record.length_normalised_ches == pytest.approx(float(chosen @ rejected - chosen @ chosen), rel=1e-9)


def test_the_head_inner_product_is_that_of_its_weight(data) -> None:
    """The sample model ties embedding and head. Untied copies separate their parts."""
    untied = AutoModelForCausalLM.from_pretrained(SAMPLE / "model", dtype=torch.float64).eval()
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    records = entangle_cli.scan(str(SAMPLE / "model"), data(ROWS), SETTINGS)
    for row, record in zip(ROWS, records, strict=True):
        with TrueFloat64():
            gradients = [
                response_gradient(untied, *token_ids(row, side), [untied.lm_head.weight])[1]
                for side in ("chosen", "rejected")
            ]
        assert record.head_inner_product == pytest.approx(float(gradients[0] @ gradients[1]), rel=1e-6)


def test_the_unshared_cosine_leaves_the_common_start_out(model: PreTrainedModel, data) -> None:
    records = entangle_cli.scan(str(SAMPLE / "model"), data(ROWS), replace(SETTINGS, unshared_cosine=True))
    assert [record.shared_prefix_tokens for record in records] == [0, 1, 0]
    assert records[0].unshared_cosine == records[0].cosine
    row = ROWS[1]
    gradients = []
    for side in ("chosen", "rejected"):
        ids, first = token_ids(row, side)
        with TrueFloat64():
            gradients.append(response_gradient(model, ids, first + 1, list(model.parameters()))[1])
    cosine = float(gradients[0] @ gradients[1] / (gradients[0].norm() * gradients[1].norm()))
    assert records[1].unshared_cosine == pytest.approx(cosine, abs=1e-6)
    assert abs(records[1].cosine - cosine) > 1e-3
    assert all(record.unshared_cosine is None for record in entangle_cli.scan(str(SAMPLE / "model"), data(ROWS)))


def test_token_distances_are_of_the_scored_tokens(data) -> None:
    record = entangle_cli.scan(str(SAMPLE / "model"), data(ROWS[:1]))[0]
    scored = [ids[first:] for ids, first in (token_ids(ROWS[0], side) for side in ("chosen", "rejected"))]
    # One word differs, in all its tokens. " and hungry" and EOS are shared.
    tokenizer = AutoTokenizer.from_pretrained(SAMPLE / "model")
    shared = len(tokenizer(" and hungry")["input_ids"]) + 1
    assert scored[0][-shared:] == scored[1][-shared:]
    assert (record.shared_prefix_tokens, record.shared_suffix_tokens) == (0, shared)
    assert record.edit_distance == max(map(len, scored)) - shared


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample model with other weights, as a reference."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(SAMPLE / "model", folder, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def test_a_reference_model_gives_its_own_log_probs(moved: Path, data) -> None:
    path = data(ROWS)
    own = entangle_cli.scan(str(moved), path, SETTINGS)
    settings = replace(SETTINGS, ref_model=str(moved), loss=LossSettings("sppo_hard"))
    records = entangle_cli.scan(str(SAMPLE / "model"), path, settings)
    for record, reference in zip(records, own, strict=True):
        assert record.chosen_ref_log_prob == pytest.approx(reference.chosen_log_prob, rel=1e-12)
        assert record.rejected_ref_log_prob == pytest.approx(reference.rejected_log_prob, rel=1e-12)
        assert record.chosen_log_prob != record.chosen_ref_log_prob
        assert record.chosen_delta == pytest.approx(sppo_delta(record), rel=1e-9)


def sppo_delta(record: PairRecord) -> float:
    """d_c A - d_r P with SPPO's coefficients at beta 0.1."""
    chosen = 10 - 2 * (record.chosen_log_prob - record.chosen_ref_log_prob)
    rejected = 10 + 2 * (record.rejected_log_prob - record.rejected_ref_log_prob)
    return chosen * record.chosen_grad_norm**2 - rejected * record.inner_product


@pytest.mark.parametrize(
    "names", [("ref_chosen_logps", "ref_rejected_logps"), ("reference_chosen_logps", "reference_rejected_logps")]
)
def test_reference_log_probs_come_from_the_datas_columns(names: tuple[str, str], data) -> None:
    rows = [{**row, names[0]: -3.5, names[1]: -7.25} for row in ROWS[:1]]
    rows += [{**ROWS[1], names[0]: -1.0, names[1]: "x"}, {**ROWS[2], names[0]: float("nan"), names[1]: -1.0}]
    records = entangle_cli.scan(str(SAMPLE / "model"), data(rows), replace(SETTINGS, loss=LossSettings("sppo_hard")))
    assert (records[0].chosen_ref_log_prob, records[0].rejected_ref_log_prob) == (-3.5, -7.25)
    assert records[0].chosen_delta == pytest.approx(sppo_delta(records[0]), rel=1e-9)
    assert [record.reason for record in records] == [None, "malformed", "malformed"]


def test_a_reference_with_fewer_tokens_is_refused(data, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    shutil.copytree(SAMPLE / "model", folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(100)
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="embeddings for 100 tokens"):
        entangle_cli.scan(str(SAMPLE / "model"), data(ROWS), replace(SETTINGS, ref_model=str(folder)))


def test_a_reference_of_other_tokens_is_refused(data, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(SAMPLE / "model", folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    turned = dict(zip(vocabulary, reversed(list(vocabulary.values())), strict=True))
    path.write_text(json.dumps({**tokenizer, "model": {**tokenizer["model"], "vocab": turned}}))
    with pytest.raises(ModelError, match="tokens differ in its tokenizer"):
        entangle_cli.scan(str(SAMPLE / "model"), data(ROWS), replace(SETTINGS, ref_model=str(folder)))
