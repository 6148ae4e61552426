"""A LoRA adapter that does not exist yet, put on a loaded checkpoint as a trainer would."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from entangle_cli.data.adapter import cast_adapter
from entangle_cli.data.checkpoint import DTYPES, Checkpoint
from entangle_cli.errors import UsageError, is_out_of_memory
from entangle_cli.records.settings import LoraSettings


def lora_config(settings: LoraSettings) -> Any:
    """PEFT's config of an adapter."""
    from peft import LoraConfig

    targets: Any = None if settings.targets is None else list(settings.targets)
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        modules_to_save=None if settings.modules_to_save is None else list(settings.modules_to_save),
        task_type="CAUSAL_LM",
    )


def with_planned_adapter(checkpoint: Checkpoint, settings: LoraSettings, seed: int, dtype: str) -> Checkpoint:
    """Put a new adapter on a checkpoint. Its layers change the model in place.

    PEFT draws A at random and sets B to zero. At the start, the gradient of A is therefore zero.

    Args:
        seed: of the values of A. The same adapter comes from `torch.manual_seed(seed)` and `get_peft_model`.
        dtype: a key of `DTYPES`.
    Raises:
        UsageError: peft is not installed, MODEL is an adapter, or the adapter does not fit the model.
    """
    if find_spec("peft") is None:
        raise UsageError("--lora: peft is not installed", "the extra `peft`", "run: pip install 'entangle-cli[peft]'")
    if checkpoint.adapter_parameters:
        raise UsageError(
            "--lora with an adapter as MODEL", "a whole checkpoint", "leave --lora out, or name the base as MODEL"
        )
    model = _adapted(checkpoint.model, settings, seed)
    trained = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    cast_adapter(model, trained, DTYPES[dtype])
    return replace(
        checkpoint,
        model=model,
        adapter_parameters=trained,
        identity={**checkpoint.identity, "planned_adapter": _identity(settings, seed)},
        warnings={
            **checkpoint.warnings,
            "W-PLANNED-ADAPTER": f"{adapter_words(settings)}, initialised with seed {seed}: B is zero at the start, so "
            "A has no gradient yet",
        },
    )


def _identity(settings: LoraSettings, seed: int) -> dict[str, Any]:
    """What determines the adapter, JSON-able. Dropout does not: it is off in a measurement."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    del values["dropout"]
    return {**values, "seed": seed}


def adapter_words(settings: LoraSettings) -> str:
    """An adapter in words."""
    kind = "DoRA" if settings.dora else "rsLoRA" if settings.rslora else "LoRA"
    targets = "" if settings.targets is None else f" on {', '.join(settings.targets)}"
    saved = "" if settings.modules_to_save is None else f", with {', '.join(settings.modules_to_save)} trained whole"
    return f"a planned {kind} adapter{targets} of rank {settings.r}, alpha {settings.alpha}{saved}"


def _adapted(model: PreTrainedModel, settings: LoraSettings, seed: int) -> PreTrainedModel:
    import peft

    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            any_model: Any = model
            adapted: Any = peft.get_peft_model(any_model, lora_config(settings))
        except Exception as error:  # PEFT raises many types
            if is_out_of_memory(error):
                raise
            raise UsageError(
                f"--lora: {str(error).strip().splitlines()[0]}",
                "names of the model's layers as targets and modules_to_save",
                "use targets=all-linear, or names from the model's printout such as q_proj+v_proj",
            ) from error
    whole: Any = adapted.get_base_model().eval()
    assert isinstance(whole, PreTrainedModel)
    return whole
