"""Opens the probe pairs of a training, with the settings of its trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from entangle_cli.analysis.losses.table import LOSSES
from entangle_cli.data.checkpoint import check_dtype
from entangle_cli.data.checkpoint_in_memory import checkpoint_in_training
from entangle_cli.data.in_memory import ModelInMemory
from entangle_cli.data.parameters import default_parameters
from entangle_cli.data.probe_rows import ProbeRows, draw
from entangle_cli.diagnose.scan.row_preparation import resolved_length
from entangle_cli.diagnose.training.probe_measurer import ProbeMeasurer
from entangle_cli.diagnose.training.processes import random_state_kept
from entangle_cli.records.settings import AUTO_LENGTH, Dtype, LossSettings, ScanSettings, Truncation


def draw_probes(sets: Mapping[str, Any], num_pairs: int, seed: int) -> ProbeRows:
    """Draw the same number of rows from every data set, `num_pairs` in total.

    Args:
        sets: name to a `datasets.Dataset` or rows.
    Raises:
        DataError: a data set has no rows.
    """
    with random_state_kept():
        number = max(1, num_pairs // len(sets))
        return ProbeRows([draw(name, rows, number, seed) for name, rows in sets.items()])


def open_probes(
    model: Any,
    tokenizer: Any,
    source: ProbeRows,
    arguments: Any,
    *,
    seed: int,
    dtype: str | None,
    loss: LossSettings | None,
    reference: nn.Module | None,
) -> ProbeMeasurer:
    """Tokenise the probe pairs as a trainer does.

    Args:
        model: the trainer's model, a PEFT model or a plain one.
        arguments: TRL's or transformers' training arguments.
        seed: the seed that drew the rows.
        dtype: dtype of the measurement; None for that of the training's computation.
        loss: None for the trainer's.
        reference: the trainer's reference model; None without one.
    Raises:
        UsageError: the dtype is unknown.
        ModelError, DataError: see `ProbeMeasurer`.
    """
    given = ModelInMemory(model, getattr(tokenizer, "tokenizer", tokenizer))
    dtype = dtype or computing_dtype(model, arguments)
    check_dtype(dtype)
    checkpoint = checkpoint_in_training(given, 0)
    is_whole = all(parameter.requires_grad for parameter in checkpoint.model.parameters())
    selection = default_parameters(checkpoint)
    num_drawn = len(source.indices)
    settings = ScanSettings(
        dtype=dtype,
        max_length=resolved_length(getattr(arguments, "max_length", AUTO_LENGTH), checkpoint.context),
        truncation=getattr(arguments, "truncation_mode", None) or Truncation.KEEP_START.value,
        parameters=selection if is_whole or selection == "adapter" else "trained",
        sample=num_drawn if num_drawn < source.num_rows else None,
        seed=seed,
        loss=loss or trainer_loss(arguments),
        activation_checkpointing=_recomputes(model),
    )
    with random_state_kept():
        return ProbeMeasurer(given, source, settings, reference)


def _recomputes(model: Any) -> bool:
    """Whether a model recomputes activations in training. The name changed in transformers 5.20."""
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    return bool(next((getattr(model, name) for name in names if hasattr(model, name)), False))


def computing_dtype(model: Any, arguments: Any) -> str:
    """The dtype in which a trainer computes. float16 is measured in float32."""
    own = str(model.dtype).removeprefix("torch.")
    if getattr(arguments, "bf16", False) or own == Dtype.BFLOAT16:
        return Dtype.BFLOAT16.value
    return Dtype.FLOAT64.value if own == Dtype.FLOAT64 else Dtype.FLOAT32.value


def trainer_loss(arguments: Any) -> LossSettings:
    """The loss of a trainer. For one that is not a single known loss, `sigmoid`."""
    names = getattr(arguments, "loss_type", None)
    names = [names] if isinstance(names, str) else names
    default = LossSettings()
    name = names[0] if isinstance(names, Sequence) and len(names) == 1 and names[0] in LOSSES else default.name
    beta = getattr(arguments, "beta", None)
    return LossSettings(name, beta if isinstance(beta, float) and beta > 0 else default.beta)
