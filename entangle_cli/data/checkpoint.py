"""A checkpoint and its tokenizer from a folder or the hub, checked before anything is computed with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from entangle_cli.data.adapter import is_adapter, with_adapter
from entangle_cli.data.checkpoint_checks import (
    code_of,
    refuse_absent_weights,
    refuse_code,
    refuse_incomplete,
    refuse_not_finite,
    refuse_offloaded,
    refuse_other_models,
)
from entangle_cli.data.hub import offline
from entangle_cli.data.origin import Origin, base_origin, find_origin, identity_of
from entangle_cli.data.rows import file_sha256
from entangle_cli.data.series import step_of
from entangle_cli.errors import ModelError, UsageError
from entangle_cli.records import LoadingSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


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
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Code to sentence: what a user should know about how it was loaded."""
    training_step: int | None = None
    """Of a checkpoint that Trainer wrote, by its name."""


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


def load_checkpoint(
    name: str,
    dtype: str,
    device: torch.device,
    loading: LoadingSettings | None = None,
    device_map: str | None = None,
) -> Checkpoint:
    """Load a causal LM for measuring, or a PEFT adapter on its base.

    Args:
        name: a folder, or a name on the hub; what looks like a path is never asked for on the hub. A folder that
            Trainer wrote its checkpoints to stands for the last of them.
        dtype: a key of `DTYPES`; what the weights are loaded as and computed in.
        device_map: a name of `device.DEVICE_MAPS` spreads the weights over devices; None puts them on `device`.
    Raises:
        ModelError: not there, not a causal LM, incomplete, not finite, or without a usable tokenizer.
        UsageError: a base for what is no adapter, or a revision of a folder.
    """
    loading = loading or LoadingSettings()
    origin = find_origin(name, loading)
    if origin.folder is not None and is_adapter(origin.folder):
        return _load_adapter(name, origin.folder, dtype, device, loading, device_map)
    if loading.base_model is not None:
        raise UsageError(
            f"--base-model {loading.base_model}: {name} is a whole checkpoint",
            "a PEFT adapter as MODEL",
            "leave it out",
        )
    model, config = _load_model(origin, dtype, loading, device_map)
    return Checkpoint(
        model=_placed(model, device, device_map),
        tokenizer=_load_tokenizer(origin, loading),
        identity={**identity_of(origin), **_template_identity(loading)},
        position_limit=_position_limit(config),
        warnings=_warnings(origin, config, loading),
        training_step=None if origin.folder is None else step_of(origin.folder),
    )


def _placed(model: nn.Module, device: torch.device, device_map: str | None) -> PreTrainedModel:
    placed = (model if device_map is not None else model.to(device)).eval()
    assert isinstance(placed, PreTrainedModel)
    return placed


def _load_adapter(
    name: str, adapter: Path, dtype: str, device: torch.device, loading: LoadingSettings, device_map: str | None
) -> Checkpoint:
    base = base_origin(adapter, loading)
    plain, config = _load_model(base, dtype, loading, device_map)
    model, adapter_parameters = with_adapter(plain, adapter)
    if dtype != "bfloat16":
        # Under bfloat16 PEFT keeps adapters in float32, in training too.
        for parameter_name, parameter in model.named_parameters():
            if parameter_name in adapter_parameters:
                parameter.data = parameter.data.to(DTYPES[dtype])
    refuse_not_finite(name, model)
    own = Origin(name, adapter)
    return Checkpoint(
        model=_placed(model, device, device_map),
        tokenizer=_load_tokenizer(own if _has_tokenizer(adapter) else base, loading),
        identity={**identity_of(own), "base": identity_of(base), **_template_identity(loading)},
        position_limit=_position_limit(config),
        adapter_parameters=adapter_parameters,
        warnings=_warnings(base, config, loading),
        training_step=step_of(adapter),
    )


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").is_file()


def _load_config(origin: Origin, loading: LoadingSettings) -> Any:
    with _translated(origin), offline(origin.local_only):
        plain, _ = PreTrainedConfig.get_config_dict(origin.source, revision=origin.revision)
    if not loading.trust_remote_code:
        refuse_code(origin.name, plain if isinstance(plain, dict) else {})
    with _translated(origin), offline(origin.local_only):
        config = AutoConfig.from_pretrained(
            origin.source,
            revision=origin.revision,
            trust_remote_code=loading.trust_remote_code,
        )
    refuse_other_models(origin.name, config)
    return config


def _load_model(
    origin: Origin, dtype: str, loading: LoadingSettings, device_map: str | None
) -> tuple[PreTrainedModel, Any]:
    config = _load_config(origin, loading)
    if origin.folder is not None:
        refuse_absent_weights(origin.folder, pickled_weights=loading.pickled_weights)
    with _translated(origin), offline(origin.local_only):
        # With this flag the stubs' single result is really a pair.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            origin.source,
            config=config,
            revision=origin.revision,
            dtype=DTYPES[dtype],
            # Safetensors go first in any case; pickles are unpickled by torch's weights-only loading.
            use_safetensors=None if loading.pickled_weights else True,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are in the loading info, and refused by name
            trust_remote_code=loading.trust_remote_code,
            attn_implementation=loading.attn_implementation,
            device_map=device_map,
        )
        model, about = loaded
    refuse_offloaded(origin.name, model)
    refuse_incomplete(origin.name, about)
    refuse_not_finite(origin.name, model)
    return model, config


def _warnings(origin: Origin, config: Any, loading: LoadingSettings) -> dict[str, str]:
    found = {}
    if loading.trust_remote_code and (files := code_of(config.to_dict())):
        found["W-REMOTE-CODE"] = f"code that came with the checkpoint was run: {', '.join(files)}"
    if origin.folder is not None and not any(origin.folder.glob("*.safetensors")):
        found["W-PICKLED"] = "the weights were read from pickles, by weights-only loading; safetensors hold no code"
    return found


def _load_tokenizer(origin: Origin, loading: LoadingSettings) -> PreTrainedTokenizerBase:
    with _translated(origin, what="tokenizer"), offline(origin.local_only):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            origin.source,
            revision=origin.revision,
            trust_remote_code=loading.trust_remote_code,
        )
    if loading.chat_template is not None:
        tokenizer.chat_template = _template(loading.chat_template)
    return tokenizer


def _template(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        # The sandbox is transformers'; here only the grammar is looked at.
        jinja2.Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(
            re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", text)
        )
    except (OSError, UnicodeDecodeError, jinja2.TemplateError) as error:
        raise UsageError(
            f"--chat-template {path}: {error}", "a file with a chat template in Jinja", "correct or leave it out"
        ) from error
    return text


def _template_identity(loading: LoadingSettings) -> dict[str, str]:
    return {} if loading.chat_template is None else {"chat_template": file_sha256(loading.chat_template)}


class TokenizerOfModel(NamedTuple):
    """A checkpoint's tokenizer, and the model's limits."""

    tokenizer: PreTrainedTokenizerBase
    position_limit: int | None
    """Positions that have learned embeddings; None where positions are computed."""
    num_embeddings: int | None
    """Tokens that the model has embeddings for, as its config says."""


def load_tokenizer(name: str, loading: LoadingSettings | None = None) -> TokenizerOfModel:
    """The tokenizer of a checkpoint or an adapter, and what its model can read; no weights are loaded.

    Raises:
        ModelError: not there, not a causal LM, or without a usable tokenizer.
    """
    loading = loading or LoadingSettings()
    origin = find_origin(name, loading)
    whole = origin
    if origin.folder is not None and is_adapter(origin.folder):
        whole = base_origin(origin.folder, loading)
        origin = origin if _has_tokenizer(origin.folder) else whole
    config = _load_config(whole, loading)
    num_embeddings = getattr(config.get_text_config(), "vocab_size", None)
    return TokenizerOfModel(_load_tokenizer(origin, loading), _position_limit(config), num_embeddings)


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


@contextmanager
def _translated(origin: Origin, what: str = "checkpoint") -> Iterator[None]:
    """Errors of the loading libraries as ours; their first line says what was wrong."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the libraries raise whatever the formats' readers do
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own, which is not run without --trust-remote-code"
        raise ModelError(
            f"{origin.name}: the {what} cannot be loaded: {reason}",
            "a causal LM with safetensors weights and a tokenizer, in a folder or reachable on the hub",
            "check the name and that all files are there",
        ) from error


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
