"""An adapter on 4-bit bitsandbytes weights is measured like with autograd. The weights themselves are refused."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from entangle_cli.data.checkpoint import load_checkpoint, quiet_libraries
from entangle_cli.data.parameters import select_parameters
from entangle_cli.engine.engine import Engine
from entangle_cli.errors import UsageError
from tests.data.tokenizers import small_tokenizer
from tests.engine.pairs import assorted_pairs
from tests.oracle import response_gradient

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

# Dequantised weights, and float32 sums in a different order.
RELATIVE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter whose base is a folder of 4-bit weights."""
    plain, base, folder = (tmp_path_factory.mktemp(name) for name in ("plain", "base", "adapter"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(small_tokenizer()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).save_pretrained(plain)
    quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32")
    with quiet_libraries():
        quantised = AutoModelForCausalLM.from_pretrained(plain, quantization_config=quantisation, dtype=torch.float32)
    quantised.save_pretrained(base)
    small_tokenizer().save_pretrained(base)
    adapted = peft.get_peft_model(
        quantised, peft.LoraConfig(r=3, task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"])
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return folder


def test_adapter_gradients_on_quantised_weights_equal_autograd(adapter: Path) -> None:
    with quiet_libraries():
        checkpoint = load_checkpoint(str(adapter), "float32", torch.device("cpu"))
    parameters = select_parameters(checkpoint, "adapter")
    pairs = assorted_pairs(len(small_tokenizer()))
    with Engine(checkpoint.model, parameters) as engine:
        assert not engine.plan.slow
        measured = engine.measure(pairs)
    embeddings = checkpoint.model.get_input_embeddings()
    # As in training. Without an input that requires a gradient, the kernel uses its inference path.
    handle = embeddings.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for pair, found in zip(pairs, measured, strict=True):
        chosen, rejected = (
            response_gradient(checkpoint.model, side.ids, side.first_scored, list(parameters.values()))[1]
            for side in (pair.chosen, pair.rejected)
        )
        scale = float(chosen.norm() * rejected.norm())
        assert found.chosen_squared_norm == pytest.approx(float(chosen @ chosen), rel=RELATIVE_TOLERANCE)
        assert found.rejected_squared_norm == pytest.approx(float(rejected @ rejected), rel=RELATIVE_TOLERANCE)
        assert found.inner_product == pytest.approx(float(chosen @ rejected), abs=RELATIVE_TOLERANCE * scale)
    handle.remove()


def test_quantised_weights_themselves_are_refused(adapter: Path) -> None:
    with quiet_libraries():
        checkpoint = load_checkpoint(str(adapter), "float32", torch.device("cpu"))
    with pytest.raises(UsageError, match="quantised"):
        select_parameters(checkpoint, "all")
