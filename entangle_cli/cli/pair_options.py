"""The options of every command that reads pairs: reading rows, loading a checkpoint, tokenising."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from entangle_cli.cli.options import (
    AttnImplementation,
    BaseModel,
    ChatTemplate,
    ColumnMap,
    ConfigName,
    DataFormat,
    DataRevision,
    MaxLength,
    MaxRowBytes,
    ModelRevision,
    PickledWeights,
    Ranked,
    Split,
    TemplateDate,
    Tokenizer,
    TruncationMode,
    TrustRemoteCode,
)
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import AUTO_LENGTH, LARGEST_ROW, LoadingSettings, ReadingSettings, Truncation


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
        columns: dict[str, str] = {}
        for text in self.column_map or []:
            role, separator, column = text.partition("=")
            if not (role and separator and column) or role in columns:
                raise UsageError(
                    f"--map {text!r}", "ROLE=COLUMN, each role once", "write for example --map chosen=answer_a"
                )
            columns[role] = column
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
        return [Path(name) for name in named if name is not None]

    def length(self) -> int | Literal["auto"] | None:
        """Tokens of prompt and response together, as the settings have it; None for no limit."""
        return AUTO_LENGTH if self.max_length is None else self.max_length or None


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
