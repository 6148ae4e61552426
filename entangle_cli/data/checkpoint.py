"""A checkpoint and its tokenizer from a folder or the hub, checked before anything is computed with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from entangle_cli.data.adapter import base_of, is_adapter, with_adapter
from entangle_cli.data.rows import file_sha256
from entangle_cli.errors import ModelError, UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

IDENTITY_SUFFIXES = {".json", ".jinja", ".safetensors", ".model", ".txt"}
"""Files whose content decides what a checkpoint computes, or how its tokenizer reads."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model, its tokenizer, and what identifies both."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Mapping[str, Any]
    """JSON-able: name, and the SHA-256 of each file or the hub's commit."""
    position_limit: int | None
    """Sequence positions that have learned embeddings; None where positions are computed."""
    adapter_parameters: frozenset[str] = frozenset()
    """Names of the parameters that an adapter trains; empty for a plain checkpoint."""


def check_dtype(name: str) -> None:
    """Refuse a dtype that cannot be measured in.

    Raises:
        UsageError: float16, or no dtype at all.
    """
    if name == "float16":
        raise UsageError(
            "--dtype float16: the gradient of a summed log-prob leaves its range, which ends at 65,504",
            "float32, bfloat16 or float64",
            "choose bfloat16, which takes as much memory and time",
        )
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r}", "float32, bfloat16 or float64", "choose one of these")


DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def choose_device(name: str, device_map: str | None = None) -> torch.device:
    """The device of an option: `auto` is CUDA when there is one.

    Args:
        device_map: a name of `DEVICE_MAPS`, which decides instead, or None.
    Raises:
        UsageError: not a device of this machine, or a device and a map at once.
    """
    if device_map is not None and (device_map not in DEVICE_MAPS or name != "auto"):
        raise UsageError(
            f"--device-map {device_map} with --device {name}",
            f"one of {', '.join(DEVICE_MAPS)}, and no --device",
            "name one of these maps, or leave --device-map or --device out",
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device {name}: {str(error).splitlines()[0]}", "auto, cpu, cuda or cuda:N", "name a device that exists"
        ) from error
    return device


def load_checkpoint(
    name: str, dtype: str, device: torch.device, base_model: str | None = None, device_map: str | None = None
) -> Checkpoint:
    """Load a causal LM for measuring, or a PEFT adapter on its base.

    Args:
        name: a folder, or a name on the hub; what looks like a path is never asked for on the hub.
        dtype: a key of `DTYPES`; what the weights are loaded as and computed in.
        base_model: an adapter's base, where its config names another or none.
        device_map: spreads the weights over devices (a name of `DEVICE_MAPS`) instead of putting them on `device`.
    Raises:
        ModelError: not there, not a causal LM, incomplete, not finite, or without a usable tokenizer.
        UsageError: a base for what is no adapter.
    """
    folder = _local_folder(name)
    if folder is not None and is_adapter(folder):
        return _load_adapter(folder, base_model or base_of(folder), dtype, device, device_map)
    if base_model is not None:
        raise UsageError(
            f"--base-model {base_model}: {name} is a whole checkpoint", "a PEFT adapter as MODEL", "leave it out"
        )
    model, config = _load_model(name, folder, dtype, device_map)
    return Checkpoint(
        model=_placed(model, device, device_map),
        tokenizer=_load_tokenizer(name if folder is None else str(folder)),
        identity=_identity(name, folder, config),
        position_limit=_position_limit(config),
    )


def _placed(model: nn.Module, device: torch.device, device_map: str | None) -> PreTrainedModel:
    placed = (model if device_map is not None else model.to(device)).eval()
    assert isinstance(placed, PreTrainedModel)
    return placed


def _load_adapter(adapter: Path, base: str, dtype: str, device: torch.device, device_map: str | None) -> Checkpoint:
    folder = _local_folder(base)
    if folder is not None and is_adapter(folder):
        raise ModelError(f"{base} is itself an adapter", "a whole checkpoint as base", "merge the first adapter")
    plain, config = _load_model(base, folder, dtype, device_map)
    model, adapter_parameters = with_adapter(plain, adapter)
    if dtype != "bfloat16":
        # Under bfloat16 PEFT keeps adapters in float32, in training too.
        for name, parameter in model.named_parameters():
            if name in adapter_parameters:
                parameter.data = parameter.data.to(DTYPES[dtype])
    _refuse_not_finite(str(adapter), model)
    tokenizer_folder = adapter if (adapter / "tokenizer_config.json").is_file() else folder
    return Checkpoint(
        model=_placed(model, device, device_map),
        tokenizer=_load_tokenizer(base if tokenizer_folder is None else str(tokenizer_folder)),
        identity={**_identity(str(adapter), adapter, config), "base": _identity(base, folder, config)},
        position_limit=_position_limit(config),
        adapter_parameters=adapter_parameters,
    )


def _load_model(name: str, folder: Path | None, dtype: str, device_map: str | None) -> tuple[PreTrainedModel, Any]:
    name = name if folder is None else str(folder)
    with _translated(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    _refuse_other_models(name, config)
    with _translated(name):
        # With this flag the stubs' single result is really a pair.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are in the loading info, and refused by name
            trust_remote_code=False,
            device_map=device_map,
        )
        model, loading = loaded
    _refuse_offloaded(name, model)
    _refuse_incomplete(name, loading)
    _refuse_not_finite(name, model)
    return model, config


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    with _translated(name, what="tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    return tokenizer


def load_tokenizer(name: str, base_model: str | None = None) -> tuple[PreTrainedTokenizerBase, int | None]:
    """The tokenizer of a checkpoint or an adapter, and how many positions the model has; no weights are loaded.

    Raises:
        ModelError: not there, not a causal LM, or without a usable tokenizer.
    """
    folder = _local_folder(name)
    own = None if folder is None else str(folder)
    if folder is not None and is_adapter(folder):
        base = base_model or base_of(folder)
        base_folder = _local_folder(base)
        name = base if base_folder is None else str(base_folder)
        own = str(folder) if (folder / "tokenizer_config.json").is_file() else name
    elif own is not None:
        name = own
    with _translated(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    _refuse_other_models(name, config)
    return _load_tokenizer(own or name), _position_limit(config)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No loading bars and warnings of the libraries inside; their settings as they were afterwards."""
    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def default_parameters(checkpoint: Checkpoint) -> str:
    """Which parameters count where nobody says: an adapter's, of a plain checkpoint all."""
    return "adapter" if checkpoint.adapter_parameters else "all"


def select_parameters(checkpoint: Checkpoint, pattern: str) -> dict[str, nn.Parameter]:
    """The parameters that count: `all`, `adapter`, or those whose name a regular expression finds.

    Raises:
        UsageError: not a regular expression, one that finds nothing, no adapter, or weights that have no gradient.
    """
    named = dict(checkpoint.model.named_parameters())
    found = _selected(named, checkpoint.adapter_parameters, pattern)
    quantised = [name for name, parameter in found.items() if not parameter.is_floating_point()]
    if quantised:
        raise UsageError(
            f"--parameters {pattern}: {len(quantised)} are quantised, the first {quantised[0]}",
            "parameters that have gradients, such as an adapter's",
            "name an adapter folder as MODEL, or a checkpoint that is not quantised",
        )
    return found


def _selected(
    named: dict[str, nn.Parameter], adapter_parameters: frozenset[str], pattern: str
) -> dict[str, nn.Parameter]:
    if pattern == "all":
        return named
    if pattern == "adapter":
        if not adapter_parameters:
            raise UsageError(
                "--parameters adapter: the model is a whole checkpoint", "all, or a regular expression", "leave it out"
            )
        return {name: parameter for name, parameter in named.items() if name in adapter_parameters}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--parameters {pattern!r}: {error}", "all, or a regular expression", "correct the expression"
        ) from error
    found = {name: parameter for name, parameter in named.items() if expression.search(name)}
    if not found:
        raise UsageError(
            f"--parameters {pattern!r} finds none of {len(named)} parameters",
            f"an expression that finds names such as {next(iter(named))}",
            "correct the expression",
        )
    return found


def _local_folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    if name and path.is_dir():
        if not (path / "config.json").exists() and not is_adapter(path):
            raise ModelError(
                f"{name}: no config.json", "a Hugging Face checkpoint folder", "name the folder that holds config.json"
            )
        return path
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1 or path.exists()
    if looks_like_path:
        raise ModelError(
            f"{name}: no such folder",
            "a checkpoint folder, or a hub name with its organisation, such as openai-community/gpt2",
            "check the name",
        )
    return None


@contextmanager
def _translated(name: str, what: str = "checkpoint") -> Iterator[None]:
    """Errors of the loading libraries as ours; their first line says what was wrong."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own, which is not run"
        raise ModelError(
            f"{name}: the {what} cannot be loaded: {reason}",
            "a causal LM with safetensors weights and a tokenizer, in a folder or reachable on the hub",
            "check the name and that all files are there",
        ) from error


def _refuse_other_models(name: str, config: Any) -> None:
    causal = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal.update([names] if isinstance(names, str) else names)
    architectures = getattr(config, "architectures", None) or []
    other = [architecture for architecture in architectures if architecture not in causal]
    if getattr(config, "is_encoder_decoder", False) or (architectures and len(other) == len(architectures)):
        found = ", ".join(architectures) or config.model_type
        raise ModelError(
            f"{name} is {found}, not a causal language model",
            "a checkpoint of a ...ForCausalLM architecture",
            "name the policy that will be trained; encoders, reward and embedding models have no response log-probs",
        )


def _refuse_offloaded(name: str, model: nn.Module) -> None:
    """Weights that are fetched layer by layer are not there when the gradient comes back."""
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise ModelError(
            f"{name} does not fit on the devices: parts would be kept on {', '.join(sorted(places & {'cpu', 'disk'}))}",
            "devices that hold every weight",
            "use more devices, or --dtype bfloat16",
        )


def _refuse_incomplete(name: str, loading: Mapping[str, Any]) -> None:
    missing = sorted(loading.get("missing_keys") or [])
    mismatched = [entry[0] if isinstance(entry, tuple) else entry for entry in loading.get("mismatched_keys") or []]
    if missing or mismatched:
        wrong = [*missing, *map(str, mismatched)]
        raise ModelError(
            f"{name}: {len(wrong)} weights are missing or of another shape, the first {wrong[0]}",
            "every weight of the architecture; random ones would be measured instead",
            "complete the checkpoint, or correct config.json",
        )


def _refuse_not_finite(name: str, model: nn.Module) -> None:
    for parameter_name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"{name}: {parameter_name} holds NaN or infinite values",
                "finite weights",
                "take an earlier checkpoint; this one cannot be trained further either",
            )


def _identity(name: str, folder: Path | None, config: Any) -> dict[str, Any]:
    if folder is None:
        return {"name": name, "commit": getattr(config, "_commit_hash", None)}
    files = sorted(path for path in folder.iterdir() if path.suffix in IDENTITY_SUFFIXES)
    return {"name": folder.resolve().name, "files": {path.name: file_sha256(path) for path in files}}


def _position_limit(config: Any) -> int | None:
    text = config.get_text_config()
    if text.model_type == "mpt":
        # Its linear biases come from a table of this length.
        return int(text.max_seq_len)
    computed = getattr(text, "rope_parameters", None) or getattr(text, "alibi", False)
    return None if computed else getattr(text, "max_position_embeddings", None)


def library_versions() -> dict[str, str]:
    """Versions of what decides numbers and tokens."""
    import datasets
    import tokenizers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "datasets": datasets.__version__,
    }
