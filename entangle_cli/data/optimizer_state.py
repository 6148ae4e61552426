"""Reads Trainer's optimizer.pt in weights-only mode."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import get_parameter_names

from entangle_cli.data.paths import refuse_irregular
from entangle_cli.errors import DataError

# Copied from `Trainer.get_decay_parameter_names`, because a Trainer object cannot be created without training.
UNDECAYED_NAMES = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


@dataclass(frozen=True, slots=True)
class StoredMoments:
    """AdamW's running averages of one parameter."""

    step: int
    exp_avg: Tensor
    exp_avg_sq: Tensor


@dataclass(frozen=True, slots=True)
class StoredOptimizer:
    """State and settings of a saved AdamW optimizer."""

    moments: Mapping[str, StoredMoments]
    weight_decay: Mapping[str, float]
    """By parameter name."""
    learning_rate: float
    """Learning rate of the next step, as set by the schedule."""
    betas: tuple[float, float]
    epsilon: float


def decayed_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters with weight decay in Trainer: all except biases and norms."""
    names: list[str] = get_parameter_names(model, [nn.LayerNorm], UNDECAYED_NAMES)  # type: ignore[no-untyped-call]
    return frozenset(names)


def read_optimizer(path: Path, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> StoredOptimizer:
    """Read AdamW's state of the trained parameters.

    The file identifies parameters by number. Trainer has two groups, parameters with weight decay first, each in the
    model's order. Names follow from this order, and all shapes are checked.

    Args:
        parameters: the trained parameters, in the model's order.
    Raises:
        DataError: the file is missing, is not an AdamW state, or belongs to other parameters.
    """
    refuse_irregular(path, DataError)
    groups, state = _loaded(path)
    for group in groups:
        _check_group(path, group)
    names = _names(groups, model, parameters)
    numbers = [number for group in groups for number in group["params"]]
    if len(names) != len(numbers):
        raise _does_not_fit(path, f"{len(numbers)} parameters, but {len(names)} are selected")
    moments, decay = {}, {}
    group_of = {number: group for group in groups for number in group["params"]}
    for name, number in zip(names, numbers, strict=True):
        decay[name] = float(group_of[number].get("weight_decay", 0.0))
        if number in state:
            moments[name] = _moments(path, name, state[number], parameters[name])
    first = groups[0]
    return StoredOptimizer(
        moments, decay, float(first["lr"]), (float(first["betas"][0]), float(first["betas"][1])), float(first["eps"])
    )


def _loaded(path: Path) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(document, dict):
            raise TypeError(f"a {type(document).__name__}")
        groups, state = document["param_groups"], document["state"]
        if not isinstance(groups, list) or not isinstance(state, dict):
            raise TypeError(f"param_groups as a {type(groups).__name__}, state as a {type(state).__name__}")
        if not (groups and all({"params", "lr", "betas", "eps"} <= group.keys() for group in groups)):
            raise KeyError("betas")
        return groups, state
    except FileNotFoundError as error:
        raise DataError(
            f"--state {path}: no such file",
            "a Trainer checkpoint's optimizer.pt",
            "check the path, or omit --state to forecast the first step",
        ) from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"--state {path} cannot be read: not a torch file, or one with more than tensors and numbers",
            "a Trainer checkpoint's optimizer.pt, read without running code",
            "save it again, or omit --state to forecast the first step",
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(
            f"--state {path} cannot be read: {(str(error).strip() or 'it is empty').splitlines()[0]}",
            "a Trainer checkpoint's optimizer.pt, with only tensors and numbers",
            "save it again, or omit --state to forecast the first step",
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"--state {path} has no AdamW state: {error}",
            "a state, and param_groups with lr, betas and eps, as saved by torch's AdamW",
            "omit --state to forecast the first step",
        ) from error


def _check_group(path: Path, group: Mapping[str, Any]) -> None:
    """Refuse a group with values that torch's AdamW cannot have.

    Raises:
        DataError: a value is missing or invalid.
    """
    betas, epsilon = group["betas"], _number(group["eps"])
    are_two = isinstance(betas, list | tuple) and len(betas) == 2
    rates = [_number(beta) for beta in betas] if are_two else []
    fits = {
        "params": isinstance(group["params"], list) and all(isinstance(each, int) for each in group["params"]),
        "lr": _number(group["lr"]) is not None,
        "betas": are_two and all(rate is not None and 0.0 <= rate < 1.0 for rate in rates),
        "eps": epsilon is not None and epsilon >= 0.0,
        "weight_decay": _number(group.get("weight_decay", 0.0)) is not None,
    }
    for name, is_fit in fits.items():
        if not is_fit:
            raise DataError(
                f"--state {path}: {name} is {str(group.get(name))[:40]}",
                "param_groups as saved by torch's AdamW",
                "save it again, or omit --state to forecast the first step",
            )


def _names(groups: list[dict[str, Any]], model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    if len(groups) == 1:
        return list(parameters)
    decayed = decayed_names(model)
    return sorted(parameters, key=lambda name: name not in decayed)


def _moments(path: Path, name: str, entry: Any, parameter: nn.Parameter) -> StoredMoments:
    if not isinstance(entry, dict) or not {"step", "exp_avg", "exp_avg_sq"} <= entry.keys():
        keys = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(
            f"--state {path}: {name} has {keys}",
            "step, exp_avg and exp_avg_sq, as saved by torch's AdamW",
            "omit --state to forecast the first step; 8-bit and other optimizers are not supported",
        )
    step = _number(entry["step"])
    if step is None or step < 0 or not step.is_integer():
        raise DataError(
            f"--state {path}: step of {name} is {str(entry['step'])[:40]}",
            "a number of steps",
            "use the optimizer.pt of an earlier checkpoint",
        )
    for moment in ("exp_avg", "exp_avg_sq"):
        if not isinstance(entry[moment], Tensor):
            raise DataError(
                f"--state {path}: {moment} of {name} is a {type(entry[moment]).__name__}",
                "tensors, as saved by torch's AdamW",
                "use the optimizer.pt of an earlier checkpoint",
            )
        if entry[moment].shape != parameter.shape:
            raise _does_not_fit(
                path, f"shape {tuple(entry[moment].shape)} for {name} with shape {tuple(parameter.shape)}"
            )
        if not bool(torch.isfinite(entry[moment]).all()):
            raise DataError(
                f"--state {path}: {moment} of {name} holds NaN or infinite values",
                "finite values",
                "use the optimizer.pt of an earlier checkpoint",
            )
    if bool((entry["exp_avg_sq"] < 0).any()):
        raise DataError(
            f"--state {path}: exp_avg_sq of {name} holds negative values",
            "averages of squares, which are not negative",
            "use the optimizer.pt of an earlier checkpoint",
        )
    return StoredMoments(int(step), entry["exp_avg"], entry["exp_avg_sq"])


def _number(value: Any) -> float | None:
    """A finite number, also from a tensor with one element; None for anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _does_not_fit(path: Path, what: str) -> DataError:
    return DataError(
        f"--state {path} holds {what}",
        "the state of the selected parameters, from the same checkpoint",
        "use the optimizer.pt in MODEL's folder, and select the trained parameters with --parameters",
    )
