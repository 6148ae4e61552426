"""A model in this process, ready to measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint
from entangle_cli.data.checkpoint_in_memory import checkpoint_in_memory
from entangle_cli.data.device import choose_device
from entangle_cli.data.in_memory import model_in_memory, modes_kept
from entangle_cli.data.pairs import PairReader
from entangle_cli.data.parameters import default_parameters, select_parameters
from entangle_cli.data.planned_adapter import with_planned_adapter
from entangle_cli.diagnose.scan.budget import fitting_tokens
from entangle_cli.diagnose.scan.description import describe_model
from entangle_cli.diagnose.scan.estimate import Cost, cost_of
from entangle_cli.diagnose.scan.measurer import Measurer
from entangle_cli.diagnose.scan.reference import opened_reference
from entangle_cli.diagnose.scan.row_preparation import Preparation, RowPreparation
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.scan.scan import LostRow
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.groups import parameter_groups
from entangle_cli.errors import UsageError
from entangle_cli.records.model_description import ModelDescription
from entangle_cli.records.pair import RecordBatch
from entangle_cli.records.settings import ScanSettings


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to measure, created by `open_model`. It is a `ScanModel`."""

    description: ModelDescription
    checkpoint: Checkpoint
    parameters: Mapping[str, nn.Parameter]
    """The measured parameters by name."""
    measurer: Measurer
    """Turns rows into records."""
    fitting_tokens: int
    """Tokens of the largest batch that fits into memory; 0 if unknown."""
    num_workers: int = 1
    lost_rows: Sequence[LostRow] = ()
    """None: a row that cannot be measured here ends the scan at once."""

    def preparation(self, pairs: PairReader, settings: ScanSettings) -> Preparation:
        """Tokenises pairs in this process."""
        return RowPreparation(pairs, self.checkpoint.tokenizer_of_model, settings)

    def records(self, batches: Iterable[Sequence[PreparedRow]]) -> Iterator[RecordBatch]:
        """The records of batches; see `Measurer.records`."""
        return self.measurer.records(batches)

    def cost(self, longest: Sequence[PreparedRow], typical: Sequence[PreparedRow]) -> Cost:
        """What two batches cost."""
        return cost_of(self.measurer.measure, longest, typical, self.checkpoint.model)


@contextmanager
def open_model(model: Any, settings: ScanSettings, num_sharing: int = 1) -> Iterator[LoadedModel]:
    """Load the checkpoint and its reference model, and choose the rule for every parameter.

    Args:
        model: a checkpoint's folder or hub name, or a tuple of a transformers model and its tokenizer.
        num_sharing: number of processes that share the memory of this machine.
    Raises:
        ModelError: the checkpoint cannot be used.
        UsageError: a setting does not fit the machine or the model.
    """
    with _loaded(model, settings) as (checkpoint, device):
        pattern = settings.parameters or default_parameters(checkpoint)
        parameters = select_parameters(checkpoint, pattern)
        groups = parameter_groups(checkpoint.model, parameters) if settings.layers else None
        with (
            Engine(checkpoint.model, parameters, groups=groups) as engine,
            opened_reference(settings, checkpoint, device) as reference,
        ):
            name = str(model) if isinstance(model, str | Path) else str(checkpoint.identity["name"])
            identity = None if reference is None else reference.identity
            yield LoadedModel(
                describe_model(name, checkpoint, engine, identity, pattern, device, num_sharing),
                checkpoint,
                parameters,
                Measurer(engine, None if reference is None else reference.scorer, settings),
                fitting_tokens(device, engine.plan.bytes_per_token, num_sharing),
            )


@contextmanager
def _loaded(model: Any, settings: ScanSettings) -> Iterator[tuple[Checkpoint, torch.device]]:
    """The model to measure, and its device. A model in memory stays on its device."""
    if isinstance(model, str | Path):
        device = choose_device(settings.device, settings.device_map)
        checkpoint = load_checkpoint(str(model), settings.dtype, device, settings.loading, settings.device_map)
        if settings.lora is not None:
            checkpoint = with_planned_adapter(checkpoint, settings.lora, settings.seed, settings.dtype)
        yield checkpoint, device
        return
    if settings.lora is not None:
        raise UsageError(
            "lora with a model in memory", "a checkpoint's name", "call peft.get_peft_model and pass the result"
        )
    given = model_in_memory(model)
    with modes_kept(given.model):
        yield checkpoint_in_memory(given, settings.dtype), given.model.device
