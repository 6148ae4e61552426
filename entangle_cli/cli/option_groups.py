"""Groups of options that several commands share, each with the settings that it makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from entangle_cli.cli.options import (
    AttnImplementation,
    BaseModel,
    Beta,
    ChatTemplate,
    ColumnMap,
    ConfigName,
    DataFormat,
    DataRevision,
    Device,
    Gamma,
    GpusPerWorker,
    Limit,
    LossName,
    LossOptions,
    MaxLength,
    MaxRowBytes,
    ModelRevision,
    OtherLoss,
    Parameters,
    PickledWeights,
    Ranked,
    RayAddress,
    Sample,
    Seed,
    Split,
    TemplateDate,
    ThreadsPerWorker,
    Tokenizer,
    TruncationMode,
    TrustRemoteCode,
    Workers,
)
from entangle_cli.errors import UsageError
from entangle_cli.records.data_words import parsed_data_word, parsed_map
from entangle_cli.records.settings import (
    AUTO_LENGTH,
    LARGEST_ROW,
    LoadingSettings,
    LossSettings,
    ReadingSettings,
    ScanSettings,
    Truncation,
    WorkerSettings,
)


@dataclass(frozen=True, slots=True)
class PairOptions:
    """What decides which pairs a command sees, and as which tokens."""

    split: Split = None
    config_name: ConfigName = None
    data_revision: DataRevision = None
    data_format: DataFormat = None
    column_map: ColumnMap = None
    ranked: Ranked = "best-worst"
    max_row_bytes: MaxRowBytes = LARGEST_ROW
    max_length: MaxLength = None
    truncation: TruncationMode = Truncation.KEEP_START
    tokenizer: Tokenizer = None
    chat_template: ChatTemplate = None
    template_date: TemplateDate = None
    model_revision: ModelRevision = None
    base_model: BaseModel = None
    attn_implementation: AttnImplementation = None
    trust_remote_code: TrustRemoteCode = False
    pickled_weights: PickledWeights = False

    def reading(self) -> ReadingSettings:
        """How rows are read.

        Raises:
            UsageError: a map that is not ROLE=COLUMN, or one role twice.
        """
        columns = parsed_map(self.column_map or [], "--map ", "--map chosen=answer_a")
        return ReadingSettings(
            self.split,
            self.config_name,
            self.data_revision,
            self.data_format,
            columns,
            self.ranked,
            self.max_row_bytes,
        )

    def loading(self) -> LoadingSettings:
        """How a checkpoint is loaded."""
        return LoadingSettings(
            revision=self.model_revision,
            base_model=self.base_model,
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            template_date=self.template_date,
            trust_remote_code=self.trust_remote_code,
            pickled_weights=self.pickled_weights,
            attn_implementation=None if self.attn_implementation is None else self.attn_implementation.value,
        )

    def inputs(self, *others: str | Path | None) -> list[Path]:
        """Files and folders that the options name for reading, and others."""
        named = (self.chat_template, self.base_model, self.tokenizer, *others)
        return [Path(parsed_data_word(str(name)).name) for name in named if name is not None]

    def length(self) -> int | Literal["auto"] | None:
        """Tokens of prompt and response together, as the settings have it; None for no limit."""
        return AUTO_LENGTH if self.max_length is None else self.max_length or None


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """Which rows a command reads."""

    limit: Limit = None
    sample: Sample = None
    seed: Seed = 0


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """Which parameters of the policy count, and where it runs."""

    parameters: Parameters = None
    device: Device = "auto"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Which processes share a scan."""

    workers: Workers = None
    gpus_per_worker: GpusPerWorker = 1
    threads_per_worker: ThreadsPerWorker = None
    ray_address: RayAddress = None

    def settings(self) -> WorkerSettings | None:
        """The workers; None for this process alone.

        Raises:
            UsageError: a number that is not one, or an option for workers without --workers.
        """
        if self.workers is None:
            if (self.gpus_per_worker, self.threads_per_worker, self.ray_address) != (1, None, None):
                raise UsageError(
                    "--gpus-per-worker, --threads-per-worker or --ray-address without --workers",
                    "the number of workers",
                    "add --workers auto",
                )
            return None
        is_number = self.workers.isascii() and self.workers.isdecimal() and int(self.workers) > 0
        if not (is_number or self.workers == "auto"):
            raise UsageError(f"--workers {self.workers}", "a number from 1, or auto", "use for example --workers auto")
        return WorkerSettings(
            int(self.workers) if is_number else None,
            self.gpus_per_worker,
            self.threads_per_worker,
            self.ray_address,
        )


@dataclass(frozen=True, slots=True)
class LossChoice:
    """The loss that weighs the two gradients."""

    loss: LossName = None
    beta: Beta = None
    gamma: Gamma = None
    loss_option: LossOptions = None

    @property
    def is_given(self) -> bool:
        """Whether the command line names a loss or one of its numbers."""
        return any(value is not None for value in (self.loss, self.beta, self.gamma, self.loss_option))

    def settings(self, default: LossSettings) -> LossSettings:
        """The loss of the command line; what is not given is as in `default`.

        Raises:
            UsageError: an option that is not NAME=VALUE. The losses' table knows which options a loss has.
        """
        options = dict(map(_named_number, self.loss_option or []))
        if self.gamma is not None:
            options["gamma"] = self.gamma
        same = self.loss is None or self.loss == default.name
        return LossSettings(
            default.name if self.loss is None else self.loss,
            default.beta if self.beta is None else self.beta,
            {**default.options, **options} if same else options,
        )


@dataclass(frozen=True, slots=True)
class OtherLossChoice(LossChoice):
    """The loss under which a run is seen."""

    loss: OtherLoss = None


def scan_settings(
    pairs: PairOptions,
    policy: PolicyOptions,
    loss: LossSettings,
    dtype: str,
    sample: SampleOptions | None = None,
    **others: Any,
) -> ScanSettings:
    """The settings of a command that measures.

    Args:
        others: settings that only some commands have.
    """
    rows = sample or SampleOptions()
    return ScanSettings(
        dtype=dtype,
        max_length=pairs.length(),
        truncation=pairs.truncation.value,
        parameters=policy.parameters,
        limit=rows.limit,
        sample=rows.sample,
        seed=rows.seed,
        reading=pairs.reading(),
        loading=pairs.loading(),
        loss=loss,
        device=policy.device,
        **others,
    )


def _named_number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip().replace("-", "_"), float(value)
    except ValueError as error:
        raise UsageError(
            f"--loss-option {text!r}", "NAME=VALUE with a number", "write for example penalty=5"
        ) from error


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer with a parameter for each field of its parameters that are dataclasses of options."""
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        group = hints[parameter.name]
        if not is_dataclass(group):
            parameters.append(_keyword(parameter.name, parameter.default, group))
            continue
        groups[parameter.name] = group
        of_group = get_type_hints(group, include_extras=True)
        parameters += [_keyword(field.name, field.default, of_group[field.name]) for field in fields(group)]

    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    any_run: Any = run
    any_run.__name__, any_run.__doc__ = command.__name__, command.__doc__
    any_run.__signature__ = inspect.Signature(parameters)
    any_run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
