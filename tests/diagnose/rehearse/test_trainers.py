"""TRL's trainers as a rehearsal builds them: their own gradients, the plain run's losses, and the same batches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from entangle_cli.analysis.losses.loss import LossPoint
from entangle_cli.analysis.losses.table import LOSSES, find_loss, loss_coefficients
from entangle_cli.data.checkpoint import load_checkpoint
from entangle_cli.diagnose.rehearse.followed_probes import FollowedProbes
from entangle_cli.diagnose.rehearse.opening import open_rehearsal
from entangle_cli.diagnose.rehearse.trainers import FollowProbes, StopAfter, make_trainer
from entangle_cli.diagnose.rehearse.trl_losses import TABLE, trainer_of
from entangle_cli.engine.scorer import Scorer
from entangle_cli.errors import UsageError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse
from entangle_cli.records.settings import LoraSettings, LossSettings, RehearsalSettings, ScanSettings
from tests.cli.conftest import LONG, MODEL

SETTINGS = RehearsalSettings(learning_rate=1e-4, batch_size=4, warmup_steps=0.1, horizon=25)


def loaded() -> Any:
    return load_checkpoint(str(MODEL), "float32", torch.device("cpu")).model


def moved(model: Any) -> Any:
    """The model with slightly changed weights. Its reference then differs from it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return model


def trainer(loss: LossSettings, folder: Path, settings: RehearsalSettings = SETTINGS) -> Any:
    measuring = ScanSettings(max_length=256, seed=3, device="cpu")
    return make_trainer(open_rehearsal(str(MODEL), str(LONG), None, measuring, settings), loss, folder)


def tokens_of(batch: Mapping[str, torch.Tensor]) -> TokenizedPair:
    """The only pair of a batch, as TRL's trainers lay it out."""
    sides = []
    for side in (0, 1):
        if "completion_mask" in batch:
            scored = batch["completion_mask"][side].bool()
            ids = batch["input_ids"][side][batch["attention_mask"][side].bool()]
        else:
            name = ("chosen", "rejected")[side]
            attended = batch[f"{name}_attention_mask"][0].bool()
            ids = batch[f"{name}_input_ids"][0][attended]
            scored = (batch[f"{name}_labels"][0] != -100)[attended]
        sides.append(TokenizedResponse(tuple(ids.tolist()), int(scored.nonzero()[0])))
    return TokenizedPair(*sides)


@pytest.mark.parametrize("name", TABLE)
def test_the_gradient_of_trl_s_loss_is_ours(name: str, tmp_path: Path) -> None:
    """TRL's loss on a batch of one pair, by autograd, against entangle's coefficients times the pair's gradients."""
    loss = LossSettings(name, find_loss(name).customary_beta)
    made = trainer(loss, tmp_path, RehearsalSettings(batch_size=1))
    reference = moved(getattr(made, "ref_model", None) or loaded())
    batch = next(iter(made.get_train_dataloader()))
    made.model.eval()
    made.compute_loss(made.model, batch).backward()
    parameters = dict(made.model.named_parameters())
    found = {key: parameter.grad.clone() for key, parameter in parameters.items()}
    made.model.zero_grad()

    pair = tokens_of(batch)
    with Scorer(made.model) as scorer, Scorer(reference) as other:
        log_probs, references = (each.log_probs([pair]).numpy() for each in (scorer, other))
        lengths = np.array([[pair.chosen.num_scored], [pair.rejected.num_scored]], dtype=float)
        chosen, rejected = loss_coefficients(loss, LossPoint(*log_probs, *references, *lengths))
        weighted = [([pair], torch.tensor(np.stack([-chosen, rejected])))]
        if name == "orpo":
            weighted += whole_sequence_likelihood(pair)
        expected = scorer.weighted_gradient(weighted, parameters)
    size = max(float(gradient.abs().max()) for gradient in expected.values())
    assert size > 0
    for key, gradient in expected.items():
        assert torch.allclose(found[key], gradient, rtol=2e-3, atol=2e-5 * size), key


def whole_sequence_likelihood(pair: TokenizedPair) -> list[tuple[list[TokenizedPair], torch.Tensor]]:
    """The likelihood term of TRL's ORPO instead of the paper's: a mean over prompt and answer, not over the answer."""
    whole = replace(pair.chosen, first_scored=1)
    removed, added = (
        torch.tensor([[weight], [0.0]], dtype=torch.float64)
        for weight in (1.0 / pair.chosen.num_scored, -1.0 / whole.num_scored)
    )
    return [([pair], removed), ([TokenizedPair(whole, whole)], added)]


PROBES = [
    {"prompt": "Once upon a time", "completion": " there was a cat.", "group": "story"},
    {"prompt": "How do I steal a toy?", "completion": " I cannot help you with that.", "group": "refusal"},
]


def plain_log_prob(model: Any, ids: list[int], first: int) -> float:
    """Sum of a plain log-softmax over the answer's tokens, in evaluation mode."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    model.train(was_training)
    return float(scores.gather(-1, torch.tensor(ids)[1:, None])[first - 1 :].sum())


@pytest.mark.parametrize("lora", [None, LoraSettings(4, 8, ("q_proj", "v_proj"))])
def test_probe_answers_move_as_the_trained_model_does(lora: LoraSettings | None, tmp_path: Path) -> None:
    """The log-probs before the first and after the last step are those of the models, and training is unchanged."""
    path = tmp_path / "probes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*PROBES, {"prompt": "The boy was"}]))
    settings = replace(SETTINGS, steps=2, every=1, warmup_steps=0.0, lora=lora, probe=path, probe_generate=4)
    measuring = ScanSettings(max_length=256, seed=3, device="cpu")
    rehearsal = open_rehearsal(str(MODEL), str(LONG), None, measuring, settings)
    assert rehearsal.probes is not None
    made, plain = (make_trainer(rehearsal, LossSettings(), tmp_path) for _ in range(2))
    for each in (made, plain):
        each.add_callback(StopAfter(2, lambda: None))
    followed = FollowedProbes(rehearsal.probes)
    made.add_callback(FollowProbes(made, followed, 1, 2))
    start = loaded()
    for each in (made, plain):
        each.train()
    for key, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, made.model.state_dict()[key]), key

    found = followed.document()
    assert found["steps"] == [0, 1, 2]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    own = start.generate(tokenizer("The boy was", return_tensors="pt")["input_ids"], max_new_tokens=4, do_sample=False)
    sequences = [
        (tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"], row["prompt"])
        for row in PROBES
    ]
    for row, (ids, prompt) in zip(found["rows"], [*sequences, (own[0].tolist(), "The boy was")], strict=True):
        first = len(tokenizer(prompt)["input_ids"])
        assert row["tokens"] == len(ids) - first
        assert row["log_probs"][0] == pytest.approx(plain_log_prob(start, ids, first), rel=1e-5)
        assert row["log_probs"][2] == pytest.approx(plain_log_prob(made.model, ids, first), rel=1e-5)
        assert row["log_probs"][2] != row["log_probs"][0]
    assert [row["answer_is_own"] for row in found["rows"]] == [False, False, True]


def test_losses_without_a_trainer_are_refused() -> None:
    assert set(LOSSES) - set(TABLE)
    for name in set(LOSSES) - set(TABLE):
        with pytest.raises(UsageError, match="TRL has no trainer for it"):
            trainer_of(LossSettings(name))
    with pytest.raises(UsageError, match="unknown loss"):
        trainer_of(LossSettings("dpoo"))


def test_the_losses_of_a_plain_trl_run(tmp_path: Path) -> None:
    """The first 20 losses equal those of TRL's own script on the same file with the same seed."""
    made = trainer(LossSettings(), tmp_path / "rehearsal")
    made.add_callback(StopAfter(20, lambda: None))
    made.train()
    plain = DPOTrainer(
        model=str(MODEL),
        args=DPOConfig(
            output_dir=str(tmp_path / "plain"),
            per_device_train_batch_size=4,
            max_steps=25,
            learning_rate=1e-4,
            warmup_steps=0.1,
            max_length=256,
            logging_steps=1,
            seed=3,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=Dataset.from_list([json.loads(line) for line in LONG.read_text().splitlines()]),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
    )
    plain.train()
    ours, theirs = ([entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (made, plain))
    assert len(ours) == 20
    assert ours == pytest.approx(theirs[:20], abs=1e-5)
    assert ours[0] != ours[-1]


def batches_of(made: Any) -> list[list[str]]:
    """The prompts of the batches of six steps."""
    seen: list[list[str]] = []
    step, tokenizer = made.training_step, made.processing_class

    def noted(model: Any, inputs: Any, *others: Any) -> Any:
        together = inputs.get("input_ids")
        ids = inputs["chosen_input_ids"] if together is None else together[: len(together) // 2]
        seen.append([tokenizer.decode(row, skip_special_tokens=True).split("\n")[0].strip() for row in ids])
        return step(model, inputs, *others)

    made.training_step = noted
    made.add_callback(StopAfter(6, lambda: None))
    made.train()
    return seen


def test_all_losses_see_the_same_batches(tmp_path: Path) -> None:
    seen = {name: batches_of(trainer(LossSettings(name), tmp_path)) for name in ("sigmoid", "ipo", "simpo", "orpo")}
    assert [len(batch) for batch in seen["sigmoid"]] == [4] * 6
    assert len({prompt for batch in seen["sigmoid"] for prompt in batch}) > 15
    assert all(batches == seen["sigmoid"] for batches in seen.values())


def test_an_adapter_alone_is_trained(tmp_path: Path) -> None:
    made = trainer(LossSettings(), tmp_path, RehearsalSettings(lora=LoraSettings(4, 8, ("q_proj", "v_proj"), 0.1)))
    names = [name for name, parameter in made.model.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in names)
    assert made.ref_model is None


def test_nothing_is_written_or_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *words, **others: sent.append(words))
    made = trainer(LossSettings(), tmp_path / "out")
    made.add_callback(StopAfter(2, lambda: None))
    made.train()
    assert not list((tmp_path / "out").rglob("*"))
    assert not sent


def test_the_checkpoint_is_loaded_unchanged_every_time(tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in AutoModelForCausalLM.from_pretrained(MODEL).state_dict().items()}
    made = trainer(LossSettings(), tmp_path)
    made.add_callback(StopAfter(2, lambda: None))
    made.train()
    again = loaded().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in before.items())
    assert any(not torch.equal(tensor, made.model.state_dict()[name]) for name, tensor in before.items())
