"""TRL's own reading of its arguments, where TRL is installed."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
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

OF_ANOTHER_MACHINE = ("deepspeed", "tf32")
"""Arguments that a configuration checks against this machine, not against the file."""
DEVICES = re.compile(r"GPU|CUDA|cuda|TPU|device")
"""Words in refusals that are about this machine."""


class Parsed(NamedTuple):
    """Arguments as TRL parses them."""

    values: dict[str, Any]
    """All arguments, with TRL's defaults."""
    unknown: tuple[str, ...]
    """Arguments that TRL does not know."""
    version: str
    refused: str | None = None
    """Why TRL does not accept the arguments together."""


class RefusedByTrl(NamedTuple):
    """Arguments that TRL does not accept."""

    reason: str
    version: str


def parsed_by_trl(method: str, config: Mapping[str, Any], arguments: Sequence[str]) -> Parsed | RefusedByTrl | None:
    """The arguments as `TrlParser` parses them; None where TRL is not installed.

    TRL's configurations are made for a CPU, to hear what they refuse. The environment is not changed, as
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
    found = vars(namespace)
    refused = _refusal(found, (config_class, trl.ModelConfig))
    return Parsed(found, tuple(dict.fromkeys(names)), installed, refused)


def _refusal(values: Mapping[str, Any], classes: Sequence[Any]) -> str | None:
    """Why a configuration cannot be made of arguments, or a model be loaded by them; None if they can."""
    for each in classes:
        names = {field.name for field in fields(each) if field.init}.difference(OF_ANOTHER_MACHINE)
        own = {name: value for name, value in values.items() if name in names}
        if "use_cpu" in names:
            own |= {"use_cpu": True, "output_dir": tempfile.gettempdir()}
        try:
            with quiet_libraries(), _without_traces():
                each(**own)
        except (ValueError, TypeError) as error:
            if not DEVICES.search(str(error)):
                return " ".join(str(error).split())
        except Exception:  # a package or a device that this machine lacks says nothing about the file
            continue
    return None


@contextmanager
def _without_traces() -> Iterator[None]:
    """Forget the device that accelerate chooses inside the block, unless it was chosen before."""
    state: Any = import_module("accelerate.state").PartialState
    is_new = not state._shared_state
    try:
        yield
    finally:
        if is_new:
            state._reset_state()
