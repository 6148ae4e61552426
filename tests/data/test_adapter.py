"""PEFT adapters: loaded onto their base, measured like with autograd, and refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from entangle_cli.data import patterns
from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint, quiet_libraries
from entangle_cli.data.parameters import default_parameters, select_parameters
from entangle_cli.engine.coverage import Rule
from entangle_cli.engine.engine import Engine
from entangle_cli.errors import ModelError, UsageError
from entangle_cli.records.settings import LoadingSettings
from tests.data.tokenizers import small_tokenizer
from tests.data.trl_reference import tiny_llama
from tests.engine.pairs import assorted_pairs
from tests.engine.test_engine import assert_close, truth
from tests.tolerances import TOLERANCES
from tests.true_float64 import TrueFloat64

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "lora": ({"target_modules": ["q_proj", "up_proj", "down_proj"]}, "fast"),
    "rslora": ({"target_modules": ["q_proj"], "use_rslora": True, "lora_alpha": 32}, "fast"),
    "trained-bias": ({"target_modules": ["q_proj"], "lora_bias": True}, "fast"),
    "dora": ({"target_modules": ["q_proj", "down_proj"], "use_dora": True}, "slow"),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, "slow"),
    "head": ({"target_modules": ["lm_head", "q_proj"]}, "slow"),
    "whole-head": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}, "any"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_llama(small_tokenizer()).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter with random weights. B usually starts at zero, which would hide A."""
    torch.manual_seed(0)
    with quiet_libraries():
        model = load_checkpoint(str(base), "float32", torch.device("cpu")).model
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return folder


def load(folder: Path, dtype: str = "float64", base_model: str | None = None) -> Checkpoint:
    with quiet_libraries():
        return load_checkpoint(str(folder), dtype, torch.device("cpu"), LoadingSettings(base_model=base_model))


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_gradients_equal_autograd(kind: str, base: Path, tmp_path: Path) -> None:
    settings, way = KINDS[kind]
    checkpoint = load(save_adapter(base, tmp_path / "adapter", **settings))
    parameters = select_parameters(checkpoint, default_parameters(checkpoint))
    assert parameters.keys() == checkpoint.adapter_parameters
    pairs = assorted_pairs(small_tokenizer().vocab_size)
    with TrueFloat64():
        with Engine(checkpoint.model, parameters) as engine:
            measured = engine.measure(pairs)
            again = engine.measure(pairs, recompute=True)
            rules = set(engine.plan.rules.values())
        if way != "any":
            assert (Rule.SLOW in rules) == (way == "slow")
        for pair, ours, recomputed in zip(pairs, measured, again, strict=True):
            expected = truth(checkpoint.model, pair, list(parameters))
            assert_close(ours, expected, TOLERANCES[torch.float64])
            # Norms are in float32 here, because the float64 mode is off in a backward pass.
            assert_close(recomputed, expected, TOLERANCES[torch.float32])


def test_base_weights_count_when_asked_for(base: Path, tmp_path: Path) -> None:
    checkpoint = load(save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"]))
    everything = select_parameters(checkpoint, "all")
    assert len(everything) > len(checkpoint.adapter_parameters)
    pair = assorted_pairs(small_tokenizer().vocab_size)[0]
    with TrueFloat64():
        with Engine(checkpoint.model, everything) as engine:
            measured = engine.measure([pair])[0]
        assert_close(measured, truth(checkpoint.model, pair), TOLERANCES[torch.float64])


def test_an_adapter_in_bfloat16_keeps_its_own_dtype(base: Path, tmp_path: Path) -> None:
    """As in training, where PEFT keeps it in float32."""
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    checkpoint = load(folder, "bfloat16")
    dtypes = {name in checkpoint.adapter_parameters: p.dtype for name, p in checkpoint.model.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    with Engine(checkpoint.model, select_parameters(checkpoint, "adapter")) as engine:
        assert engine.measure(assorted_pairs(small_tokenizer().vocab_size))[0].inner_product != 0.0


def test_the_base_can_be_named_and_is_part_of_the_identity(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    identity = load(folder).identity
    assert "adapter_model.safetensors" in identity["files"]
    assert "model.safetensors" in identity["base"]["files"]
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="names no base"):
        load(folder)
    assert load(folder, base_model=str(base)).adapter_parameters


def test_a_base_below_the_home_folder_is_found_with_its_tokenizer(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(base.parent))
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    assert load(folder, base_model=f"~/{base.name}").tokenizer.eos_token == small_tokenizer().eos_token


def test_what_is_no_adapter_takes_no_base_and_has_no_adapter_parameters(base: Path) -> None:
    with pytest.raises(UsageError, match="is a whole checkpoint"):
        load(base, base_model=str(base))
    with pytest.raises(UsageError, match="--parameters adapter"):
        select_parameters(load(base), "adapter")


def test_an_incomplete_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="missing adapter keys"):
        load(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        load(folder)


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["c_attn"]}))
    with pytest.raises(ModelError, match="does not fit its base"):
        load(folder)


def test_a_broken_config_is_refused(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json: Expecting property name"):
        load(folder)


def test_prompt_tuning_is_refused_by_its_kind(base: Path, tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM", base_model_name_or_path=str(base))
    adapted = peft.get_peft_model(load(base, "float32").model, config)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="adds tokens instead of layers"):
        load(tmp_path / "adapter", base_model=str(base))


def with_more_tokens(base: Path, folder: Path, *, saves_embeddings: bool) -> Path:
    """An adapter trained with two more tokens than its base, saved with its tokenizer."""
    torch.manual_seed(0)
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(["<extra>", "<more>"])
    with quiet_libraries():
        model = load_checkpoint(str(base), "float32", torch.device("cpu")).model
        model.resize_token_embeddings(len(tokenizer))
    saved = ["embed_tokens", "lm_head"] if saves_embeddings else None
    config = peft.LoraConfig(r=3, task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=saved)
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(base)}))
    return folder


@pytest.mark.parametrize("saves_embeddings", [True, False])
def test_a_resized_vocabulary_is_the_adapters_tokenizers(saves_embeddings: bool, base: Path, tmp_path: Path) -> None:
    folder = with_more_tokens(base, tmp_path / "adapter", saves_embeddings=saves_embeddings)
    with quiet_libraries():
        checkpoint = load_checkpoint(str(folder), "float32", torch.device("cpu"))
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval()
    assert checkpoint.model.get_input_embeddings().weight.shape[0] == len(checkpoint.tokenizer)
    # Rows missing in the adapter are generated, with a warning.
    assert ("W-RESIZED" in checkpoint.warnings) == (not saves_embeddings)
    if saves_embeddings:
        ids = torch.tensor([[1, 5, len(checkpoint.tokenizer) - 1, 7]])
        with torch.no_grad():
            logits = checkpoint.model(input_ids=ids).logits
            assert torch.allclose(logits, theirs(input_ids=ids).logits, atol=1e-5)


def test_made_up_rows_are_the_same_in_every_scan(base: Path, tmp_path: Path) -> None:
    folder = with_more_tokens(base, tmp_path / "adapter", saves_embeddings=False)
    with quiet_libraries():
        tables = [
            load_checkpoint(str(folder), "float32", torch.device("cpu")).model.get_output_embeddings().weight
            for _ in range(2)
        ]
    assert torch.equal(*tables)


def test_unused_weights_are_reported(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    with quiet_libraries():
        assert "W-IGNORED-WEIGHTS" not in load_checkpoint(str(folder), "float32", torch.device("cpu")).warnings
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(iter(weights))
    weights[name.replace("layers.0", "layers.7")] = weights[name].clone()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with quiet_libraries():
        warnings = load_checkpoint(str(folder), "float32", torch.device("cpu")).warnings
    assert warnings["W-IGNORED-WEIGHTS"].startswith("1 weight in the files is not used by the model")


def test_a_base_that_was_moved_is_named_with_the_option(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/base"}))
    with pytest.raises(ModelError, match=r"its base /gone/base was not found[\s\S]*--base-model FOLDER"):
        load_checkpoint(str(folder), "float32", torch.device("cpu"))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"megatron_core": "os", "megatron_config": {}}, "would be imported as code"),
        ({"r": 10**6}, "rank 1,000,000"),
        ({"rank_pattern": {"q_proj": 10**6}}, "rank 1,000,000"),
    ],
)
def test_a_config_that_acts_or_claims_too_much_is_refused(
    base: Path, tmp_path: Path, entry: dict[str, object], words: str
) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **entry}))
    with pytest.raises(ModelError, match=words):
        load(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"target_modules": r"(.*.*)*q_proj_"},
        {"target_modules": "q_proj|up_proj", "exclude_modules": r"(\w+|\.)*!"},
        {"rank_pattern": {r"(\w*\.*)*!": 2}},
        {"modules_to_save": [r"(\w*\.*)*!"]},
    ],
)
def test_an_expression_without_an_end_is_refused(
    base: Path, tmp_path: Path, entry: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **entry}))
    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    with pytest.raises(ModelError, match="a regular expression takes more than 1 seconds"):
        load(folder)


def test_an_expression_that_ends_is_tried_and_kept(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", target_modules=r".*\.(q|k|v)_proj|.*mlp.*up_proj")
    assert len(load(folder).adapter_parameters) == 2 * 4 * load(folder).model.config.num_hidden_layers
