"""Forecasts against real steps that are independent of the package: autograd of the loss, torch's optimizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import entangle_cli
from entangle_cli.data.optimizer_state import read_optimizer
from entangle_cli.diagnose.forecast.forecast import open_forecast
from entangle_cli.diagnose.forecast.result import ForecastResult
from entangle_cli.engine.scorer import Scorer
from entangle_cli.errors import DataError, NothingToJudgeError, UnfinishedError, UsageError
from entangle_cli.records.settings import ForecastSettings, LossSettings, ScanSettings
from tests.oracle import response_gradient
from tests.true_float64 import TrueFloat64

SAMPLE = Path(__file__).resolve().parents[3] / "sample_data"
MODEL, DATA = SAMPLE / "model", SAMPLE / "long_ending.jsonl"
ROWS = [json.loads(line) for line in DATA.read_text().splitlines()[:6]]
SETTINGS = ScanSettings(dtype="float64", limit=6)
STEP = ForecastSettings(learning_rate=1e-8, max_grad_norm=None)
BETA = 0.1


def run(step: ForecastSettings, settings: ScanSettings = SETTINGS, eval_data: Path | None = None) -> ForecastResult:
    with TrueFloat64(), open_forecast(str(MODEL), DATA, eval_data, settings, step) as ready:
        return ready.run(lambda _: None)


def token_ids(row: dict[str, str], side: str) -> tuple[list[int], int]:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    prompt = tokenizer(row["prompt"])["input_ids"]
    return tokenizer(row["prompt"] + row[side] + tokenizer.eos_token)["input_ids"], len(prompt)


TOKENS = [[token_ids(row, side) for row in ROWS] for side in ("chosen", "rejected")]


def log_probs(model: PreTrainedModel, places: Sequence[int] = range(6)) -> torch.Tensor:
    """Log-probs from the model's own logits, [2, places]."""
    sums = []
    for side in TOKENS:
        for place in places:
            ids, first = side[place]
            scores = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            sums.append(scores.gather(-1, torch.tensor(ids)[1:, None])[first - 1 :].sum())
    return torch.stack(sums).view(2, -1)


def fresh() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float64).eval()


def trained(optimizer: torch.optim.Optimizer, model: PreTrainedModel, steps: int, clip: float | None = None) -> None:
    """DPO loss on all rows at once, with the checkpoint as reference."""
    with TrueFloat64():
        reference = log_probs(fresh()).detach()
        for _ in range(steps):
            ratios = log_probs(model) - reference
            loss = -torch.nn.functional.logsigmoid(BETA * (ratios[0] - ratios[1])).mean()
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()


def real_change(optimizer_class: type, steps: int, clip: float | None = None, **numbers: float) -> np.ndarray:
    model = fresh()
    with TrueFloat64(), torch.no_grad():
        before = log_probs(model)
    trained(optimizer_class(model.parameters(), **numbers), model, steps, clip)
    with TrueFloat64(), torch.no_grad():
        return (log_probs(model) - before).numpy()


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_step_matches_the_real_step(name: str) -> None:
    rate = 1e-8 if name == "adamw" else 1e-6
    result = run(replace(STEP, optimizer=name, learning_rate=rate, verify=True))
    optimizer_class = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
    decay = {} if name == "sgd" else {"weight_decay": 0.0}
    real = real_change(optimizer_class, 1, lr=rate, **decay)
    assert_close(result.training.changes["optimizer"], real, 2e-3)
    assert_close(result.real_steps[rate], real, 1e-5)
    assert np.array_equal(np.sign(result.training.changes["optimizer"]), np.sign(real))
    assert max(check.identity_error for check in result.checks) < 5e-4
    same_as_batch = np.allclose(result.training.changes["optimizer"], result.training.changes["batch-sgd"], rtol=1e-9)
    assert same_as_batch == (name == "sgd")


def test_pair_sgd_matches_the_scan() -> None:
    result = run(STEP)
    with TrueFloat64():
        records = entangle_cli.scan(str(MODEL), DATA, SETTINGS)
    expected = 1e-8 * np.array([[r.chosen_delta, r.rejected_delta] for r in records]).T
    np.testing.assert_allclose(result.training.changes["pair-sgd"], expected, rtol=1e-9)


def test_clipping_scales_what_the_optimizer_sees() -> None:
    result = run(replace(STEP, optimizer="sgd", learning_rate=1e-6, max_grad_norm=0.01))
    assert result.checks[0].clip_factor < 1
    assert_close(result.training.changes["optimizer"], real_change(torch.optim.SGD, 1, clip=0.01, lr=1e-6), 2e-3)


def test_each_pair_is_forecast_in_its_own_batch() -> None:
    result = run(replace(STEP, batch_size=2, optimizer="sgd", learning_rate=1e-6))
    order = np.random.default_rng(SETTINGS.seed).permutation(6)
    assert [result.training.batch[place] for place in order] == [0, 0, 1, 1, 2, 2]
    places = order[:2].tolist()
    model = fresh()
    with TrueFloat64():
        before = log_probs(model, places)
        ratios = before - before.detach()
        (-torch.nn.functional.logsigmoid(BETA * (ratios[0] - ratios[1])).mean()).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-6 * parameter.grad
            change = (log_probs(model, places) - before).numpy()
    assert_close(result.training.changes["batch-sgd"][:, places], change, 2e-3)


def test_accumulated_batches_are_one_step() -> None:
    alone = run(replace(STEP, batch_size=6))
    together = run(replace(STEP, batch_size=2, accumulate=3))
    assert set(together.training.batch) == {0}
    assert_close(together.training.changes["optimizer"], alone.training.changes["optimizer"], 1e-6)


def test_the_effect_of_other_pairs_matches_the_gram() -> None:
    result = run(STEP)
    model = fresh()
    parameters = list(model.parameters())
    with TrueFloat64():
        gradients = torch.stack(
            [response_gradient(model, *TOKENS[side][place], parameters)[1] for side in (0, 1) for place in range(6)]
        )
    gram = (gradients @ gradients.T).numpy().reshape(2, 6, 2, 6)
    share = np.array([1, -1]) * BETA / 2 / 6
    effect = 1e-8 * np.einsum("apbq,b->apq", gram, share)  # of pair q's part of the step on log-prob (a, p)
    others = effect.sum(axis=2) - np.einsum("app->ap", effect)
    assert_close(result.training.others, others, 1e-3)
    on_margins = effect[0] - effect[1]
    influence = on_margins.sum(axis=0) - np.diag(on_margins)
    assert_close(result.training.influence, influence, 1e-3)


def test_held_out_pairs_take_no_part(tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    lines = (SAMPLE / "one_token.jsonl").read_text().splitlines()[:7]
    held_out.write_text("\n".join([*lines, '{"prompt": "a", "chosen": "b", "rejected": "b"}', "no row"]) + "\n")
    result = run(STEP, eval_data=held_out)
    assert result.held_out is not None
    assert len(result.held_out.pairs) == 7, "--limit is the training data's"
    assert [record.reason for record in result.held_out_unused] == ["identical", "malformed"]
    assert np.isnan(result.held_out.changes["pair-sgd"]).all()
    np.testing.assert_array_equal(result.training.changes["optimizer"], run(STEP).training.changes["optimizer"])


def test_valid_learning_rate_is_where_second_order_equals_first() -> None:
    """At the valid learning rate, second and first order are equal. At 1 % of it, the first order holds."""
    result = run(replace(STEP, verify=True, learning_rate=1e-6))
    rates = result.training.valid_learning_rate
    assert np.isfinite(rates).all()
    change = result.real_steps[1e-7]
    held = rates > 1e-5
    assert held.any()
    predicted = 0.1 * result.training.changes["optimizer"]
    np.testing.assert_allclose(change[held], predicted[held], rtol=0.03)


def state_of(optimizer: torch.optim.Optimizer, path: Path) -> Path:
    torch.save(optimizer.state_dict(), path)
    return path


def test_a_saved_state_continues_the_training(tmp_path: Path) -> None:
    """After three real steps, checkpoint and optimizer are saved. The forecast of step four matches the real step."""
    model = fresh()
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    rest = [p for name, p in model.named_parameters() if "norm" in name]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-5)
    trained(optimizer, model, 3)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path)
    state = state_of(optimizer, tmp_path / "optimizer.pt")
    with TrueFloat64(), torch.no_grad():
        before = log_probs(model)
    for group in optimizer.param_groups:
        group["lr"] = 1e-8
    trained(optimizer, model, 1)
    with TrueFloat64(), torch.no_grad():
        change = (log_probs(model) - before).numpy()
    settings = replace(SETTINGS, ref_model=str(MODEL))
    step = ForecastSettings(state=state, learning_rate=1e-8, max_grad_norm=None)
    with TrueFloat64(), open_forecast(str(tmp_path), DATA, None, settings, step) as ready:
        assert ready.optimizer.weight_decay["model.layers.0.mlp.up_proj.weight"] == 0.05
        assert ready.optimizer.weight_decay["model.norm.weight"] == 0.0
        result = ready.run(lambda _: None)
    assert result.state_step == 3
    assert_close(result.training.changes["optimizer"], change, 2e-3)


def test_a_trainers_state_is_read_by_name(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    config = trl.DPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, save_steps=2, report_to=[],
        learning_rate=1e-4, weight_decay=0.1, use_cpu=True, bf16=False, logging_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    trainer = trl.DPOTrainer(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
    )
    trainer.train()
    path = tmp_path / "checkpoint-2" / "optimizer.pt"
    stored = read_optimizer(path, model, dict(model.named_parameters()))
    real = trainer.optimizer.optimizer if hasattr(trainer.optimizer, "optimizer") else trainer.optimizer
    decay = {id(p): group["weight_decay"] for group in real.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(stored.moments[name].exp_avg_sq, real.state[parameter]["exp_avg_sq"])
        assert stored.moments[name].step == 2
        assert stored.weight_decay[name] == decay[id(parameter)]
    assert set(stored.weight_decay.values()) == {0.1, 0.0}


def test_states_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = fresh()
    parameters = dict(model.named_parameters())
    first = next(model.parameters()).detach()

    def refused(document: object, match: str) -> None:
        path = tmp_path / "optimizer.pt"
        torch.save(document, path)
        with pytest.raises(DataError, match=match):
            read_optimizer(path, model, parameters)

    refused({"state": {}}, "no AdamW state")
    refused([1, 2], "no AdamW state: a list")
    refused(torch.ones(3), "no AdamW state: a Tensor")
    refused(torch.optim.SGD(model.parameters(), lr=0.1).state_dict(), "no AdamW state")
    few = torch.optim.AdamW(list(model.parameters())[:3], lr=0.1).state_dict()
    refused(few, "holds 3 parameters")
    whole = torch.optim.AdamW(model.parameters(), lr=0.1).state_dict()
    refused(
        {**whole, "state": {0: {"step": 1, "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}},
        r"holds shape \(2,\)",
    )
    refused({**whole, "state": {0: {"step": 1, "state1": torch.ones(2)}}}, "8-bit")
    refused({"state": {}, "param_groups": Path("code")}, "cannot be read")
    broken = {"step": 1, "exp_avg": torch.full_like(first, torch.nan), "exp_avg_sq": torch.ones_like(first)}
    refused({**whole, "state": {0: broken}}, "holds NaN")
    good = {"step": 1, "exp_avg": torch.ones_like(first), "exp_avg_sq": torch.ones_like(first)}
    refused({**whole, "state": {0: {**good, "exp_avg_sq": -good["exp_avg_sq"]}}}, "negative values")
    refused({**whole, "state": {0: {**good, "exp_avg": [1.0]}}}, "exp_avg of .* is a list")
    for step in (float("nan"), -1, torch.tensor(float("inf")), "one", 1.5):
        refused({**whole, "state": {0: {**good, "step": step}}}, "step of ")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(DataError, match="cannot be read"):
        read_optimizer(tmp_path / "empty.pt", model, parameters)
    (tmp_path / "text.pt").write_text("no state")
    with pytest.raises(DataError, match="cannot be read"):
        read_optimizer(tmp_path / "text.pt", model, parameters)
    with pytest.raises(DataError, match="no such file"):
        read_optimizer(tmp_path / "nowhere.pt", model, parameters)


def test_nothing_is_written_and_the_weights_come_back() -> None:
    def digest() -> str:
        return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(MODEL.iterdir()))).hexdigest()

    before = digest()
    with TrueFloat64(), open_forecast(str(MODEL), DATA, None, SETTINGS, replace(STEP, verify=True)) as ready:
        start = {name: p.detach().clone() for name, p in ready.policy.parameters.items()}
        ready.run(lambda _: None)
        for name, parameter in ready.policy.parameters.items():
            assert torch.equal(parameter, start[name])
    assert digest() == before


def test_the_loss_weights_the_pairs() -> None:
    """Under a loss that ignores rejected answers, every step follows the chosen answers."""
    settings = replace(SETTINGS, loss=LossSettings("rrhf", options={"nll_weight": 1e6}))
    result = run(STEP, settings)
    assert (result.training.changes["batch-sgd"][0] > 0).all()


def test_pairs_with_an_undefined_loss_are_listed_and_excluded(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    known = {"ref_chosen_logps": -20.0, "ref_rejected_logps": -21.0}
    far = {"ref_chosen_logps": 1000.0, "ref_rejected_logps": -21.0}
    # A row without reference log-probs uses the checkpoint as its reference and is included.
    rows = [{**ROWS[0], **known}, ROWS[1], {**ROWS[2], **known}, {**ROWS[3], **far}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = replace(SETTINGS, loss=LossSettings("forward_kl"))
    with TrueFloat64(), open_forecast(str(MODEL), path, None, settings, STEP) as ready:
        result = ready.run(lambda _: None)
    assert [record.index for record in result.training.pairs.records] == [0, 1, 2]
    assert [(record.index, record.reason) for record in result.unused] == [(3, "loss_undefined")]
    assert np.isfinite(result.training.changes["optimizer"]).all()


def test_an_adapter_of_the_head_takes_part(tmp_path: Path) -> None:
    """At B = 0 the adapter changes no logit, but it has a gradient."""
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(MODEL)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    step = replace(STEP, optimizer="sgd", learning_rate=1e-3, verify=True)
    with TrueFloat64(), open_forecast(str(tmp_path), DATA, None, SETTINGS, step) as ready:
        head = [name for name in ready.policy.parameters if "lm_head" in name and "lora_B" in name]
        result = ready.run(lambda _: None)
    assert head
    alone = result.training.changes["pair-sgd"] / 6
    # The scan computes products of the head's adapter with the slow route. The pair's part of the step must agree.
    own = result.training.changes["batch-sgd"] - result.training.others
    np.testing.assert_allclose(own, alone, rtol=1e-9)
    assert max(check.identity_error for check in result.checks) < 1e-3
    assert_close(result.real_steps[1e-4], 0.1 * result.training.changes["optimizer"], 2e-2)


def no_memory(*_: Any) -> torch.Tensor:
    raise torch.OutOfMemoryError("no memory")


def test_running_out_of_memory_halves_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(STEP).training.changes["optimizer"]
    log_probs, gradient = Scorer.log_probs, Scorer.weighted_gradient

    def scarce_log_probs(self: Scorer, pairs: Sequence[Any]) -> torch.Tensor:
        if len(pairs) > 1:
            raise torch.OutOfMemoryError("no memory")
        return log_probs(self, pairs)

    def scarce_gradient(self: Scorer, batches: Iterable[Any], parameters: Any) -> dict[str, torch.Tensor]:
        batches = list(batches)
        if any(len(pairs) > 1 for pairs, _ in batches):
            raise RuntimeError("can't allocate memory")
        return gradient(self, batches, parameters)

    monkeypatch.setattr(Scorer, "log_probs", scarce_log_probs)
    monkeypatch.setattr(Scorer, "weighted_gradient", scarce_gradient)
    assert_close(run(STEP).training.changes["optimizer"], expected, 1e-4)

    monkeypatch.setattr(Scorer, "log_probs", no_memory)
    with pytest.raises(UnfinishedError, match="single pair"):
        run(STEP)


@pytest.mark.parametrize(
    ("step", "settings", "match"),
    [
        (STEP, replace(SETTINGS, dtype="bfloat16"), "bfloat16 weights lose a small step"),
        (replace(STEP, learning_rate=0.0), SETTINGS, "learning rate 0"),
        (replace(STEP, optimizer="sgd", state=Path("x.pt")), SETTINGS, "has no state"),
    ],
)
def test_steps_that_cannot_be_forecast_are_refused(step: ForecastSettings, settings: ScanSettings, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        run(step, settings)


def test_no_usable_pair_is_nothing_to_judge(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    with pytest.raises(NothingToJudgeError), open_forecast(str(MODEL), path, None, SETTINGS, STEP) as ready:
        ready.run(lambda _: None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("lr", value) for value in ("x", None, float("nan"))],
        *[("betas", value) for value in (5, (0.9,), (1.5, 0.9), ("a", "b"))],
        *[("eps", value) for value in (-1.0, float("nan"))],
        ("weight_decay", "x"),
        ("params", 5),
    ],
)
def test_a_state_with_invalid_adamw_numbers_is_refused(tmp_path: Path, name: str, value: object) -> None:
    model = fresh()
    group = {"params": [0], "lr": 1e-6, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, name: value}
    torch.save({"param_groups": [group], "state": {}}, tmp_path / "optimizer.pt")
    with pytest.raises(DataError, match=f"{name} is "):
        read_optimizer(tmp_path / "optimizer.pt", model, dict(model.named_parameters()))
