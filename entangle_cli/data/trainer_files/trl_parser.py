"""TRL's own reading of its arguments, where TRL is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from entangle_cli.data.checkpoint import quiet_libraries

CONFIGS = {
    "dpo": ("trl", "DPOConfig"),
    "cpo": ("trl.experimental.cpo", "CPOConfig"),
    "orpo": ("trl.experimental.orpo", "ORPOConfig"),
    "kto": ("trl.experimental.kto", "KTOConfig"),
}
"""Method to the module and the name of its arguments."""


class Parsed(NamedTuple):
    """Arguments as TRL parses them."""

    values: dict[str, Any]
    """All arguments, with TRL's defaults."""
    unknown: tuple[str, ...]
    """Arguments that TRL does not know."""
    version: str


class RefusedByTrl(NamedTuple):
    """Arguments that TRL does not accept."""

    reason: str
    version: str


def parsed_by_trl(method: str, config: Mapping[str, Any], arguments: Sequence[str]) -> Parsed | RefusedByTrl | None:
    """The arguments as `TrlParser` parses them; None where TRL is not installed.

    TRL's configurations are not made: they would check this machine for a GPU. Nor is the environment changed, as
    `TrlParser.parse_args_and_config` would by a file's `env`.

    Args:
        config: the content of the configuration file.
        arguments: of the command line.
    """
    try:
        installed = version("trl")
        with quiet_libraries():
            trl: Any = import_module("trl")
            module, name = CONFIGS[method]
            config_class = getattr(import_module(module), name)
            parser = trl.TrlParser((trl.ScriptArguments, config_class, trl.ModelConfig, trl.DatasetMixtureConfig))
    except (PackageNotFoundError, ImportError, AttributeError):
        return None

    def refuse(message: str) -> None:
        raise ValueError(message)

    parser.error = refuse
    values = {key: value for key, value in config.items() if key != "env"}
    unknown = parser.set_defaults_with_config(**values)
    try:
        namespace, others = parser.parse_known_args(list(arguments))
    except (TypeError, ValueError, SystemExit) as error:
        return RefusedByTrl(str(error), installed)
    names = [word.removeprefix("--").partition("=")[0] for word in (*unknown[::2], *others) if word.startswith("--")]
    return Parsed(vars(namespace), tuple(dict.fromkeys(names)), installed)
