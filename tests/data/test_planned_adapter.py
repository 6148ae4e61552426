"""A planned adapter is the one that PEFT makes with the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint
from entangle_cli.data.planned_adapter import with_planned_adapter
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LoraSettings

MODEL = Path(__file__).resolve().parents[2] / "sample_data" / "model"
CPU = torch.device("cpu")
KINDS: dict[str, tuple[LoraSettings, dict[str, Any]]] = {
    "plain": (
        LoraSettings(4, 8, ("q_proj", "down_proj")),
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
    ),
    "default targets": (LoraSettings(), {"r": 8, "lora_alpha": 16}),
    "all-linear": (LoraSettings(2, 4, ("all-linear",)), {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"}),
    "rslora": (
        LoraSettings(4, 8, ("v_proj",), rslora=True),
        {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj"], "use_rslora": True},
    ),
    "dora": (
        LoraSettings(4, 8, ("v_proj",), dora=True),
        {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj"], "use_dora": True},
    ),
    "saved module": (
        LoraSettings(4, 8, ("v_proj",), modules_to_save=("lm_head",)),
        {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    ),
}


def planned(settings: LoraSettings, seed: int = 3, dtype: str = "float32") -> Checkpoint:
    return with_planned_adapter(load_checkpoint(str(MODEL), dtype, CPU), settings, seed, dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_equals_an_adapter_that_peft_saved(kind: str, dtype: str, tmp_path: Path) -> None:
    settings, config = KINDS[kind]
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=getattr(torch, dtype))
    torch.manual_seed(3)
    peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **config)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path)
    saved, own = load_checkpoint(str(tmp_path), dtype, CPU), planned(settings, dtype=dtype)
    assert own.adapter_parameters == saved.adapter_parameters
    expected = dict(saved.model.named_parameters())
    for name, parameter in own.model.named_parameters():
        assert parameter.dtype == expected[name].dtype, name
        assert torch.equal(parameter, expected[name]), name
    tokens = torch.arange(12)[None]
    assert torch.equal(own.model(tokens).logits, saved.model(tokens).logits)


def test_the_seed_decides_and_the_callers_random_state_stays() -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, again, other = (planned(LoraSettings(targets=("q_proj",)), seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)

    def values(checkpoint: Checkpoint) -> torch.Tensor:
        named = dict(checkpoint.model.named_parameters())
        return torch.cat([named[name].flatten() for name in sorted(checkpoint.adapter_parameters)])

    assert torch.equal(values(first), values(again))
    assert not torch.equal(values(first), values(other))
    assert first.identity == again.identity != other.identity


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--lora: Target modules .*nothing.* not found"):
        planned(LoraSettings(targets=("nothing",)))
    with pytest.raises(UsageError, match="--lora with an adapter as MODEL"):
        with_planned_adapter(planned(LoraSettings(targets=("q_proj",))), LoraSettings(), 0, "float32")
    monkeypatch.setattr("entangle_cli.data.planned_adapter.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"peft is not installed\n.*\n.*pip install 'entangle-cli\[peft\]'"):
        planned(LoraSettings())
