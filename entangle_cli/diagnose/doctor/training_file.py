"""What a trainer's file says that the training would not do, or not as meant. Needs no model and no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from packaging.version import Version

from entangle_cli.analysis.losses.table import LOSSES
from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.data.trainer_files.trl_losses import SMOOTHED
from entangle_cli.records.finding import Finding, finding
from entangle_cli.records.training_setup import TrainingSetup

LORA_KEYS = {
    "TRL": ("use_peft", ("lora_r", "lora_alpha", "lora_target_modules")),
    "axolotl": ("adapter", ("lora_r", "lora_alpha", "lora_target_modules", "lora_target_linear")),
    "LLaMA-Factory": ("finetuning_type: lora", ("lora_rank", "lora_alpha", "lora_target")),
}
"""Trainer to the key that makes an adapter, and the keys that count only with it."""

RENAMED = {
    "warmup_ratio": "use warmup_steps with a share below 1",
    "torch_dtype": "use dtype",
    "max_prompt_length": "remove it; TRL cuts the whole sequence at max_length",
    "rpo_alpha": "use loss_type: [sigmoid, sft] with loss_weights: [1.0, ALPHA]",
}
"""Keys that TRL once had and entangle reads, with what took their place."""

BATCH_AVERAGES = ("sigmoid_sft", "kto")
"""Losses that TRL averages over the tokens of a forward pass, or compares with its other rows."""

BROKEN_LLAMA_FACTORY = (Version("0.20"), Version("0.25"))
"""Versions of TRL in which LLaMA-Factory 0.9.5 loses `pref_loss`."""


def file_findings(setup: TrainingSetup) -> list[Finding]:
    """All findings on a file."""
    checks: tuple[Callable[[TrainingSetup], Iterator[Finding]], ...] = (
        _refused,
        _unknown,
        _beta,
        _learning_rate,
        _reference,
        _loss_weights,
        _ignored,
        _accumulation,
        _attention,
    )
    return [found for check in checks for found in check(setup)]


def is_on(value: Any) -> bool:
    """Whether a value of a file switches something on."""
    return value not in (None, False, 0, "", [], {}) and str(value).lower() not in ("false", "no", "off", "none", "0")


def _refused(setup: TrainingSetup) -> Iterator[Finding]:
    if setup.refused is not None:
        yield finding("D-REFUSED", f"{setup.trainer} refuses the file: {setup.refused}", "correct that argument")
    if setup.trainer != "axolotl":
        return
    if setup.method == "simpo" and not is_on(setup.given.get("simpo_gamma")):
        yield finding("D-REFUSED", "rl: simpo without simpo_gamma: axolotl passes None on", "set simpo_gamma: 0.5")
    if is_on(setup.given.get("rpo_alpha")):
        yield finding(
            "D-REFUSED",
            "rpo_alpha: axolotl since 0.19 refuses it",
            "use dpo_loss_type: [sigmoid, sft] with dpo_loss_weights: [1.0, ALPHA]",
        )


def _unknown(setup: TrainingSetup) -> Iterator[Finding]:
    for key in dict.fromkeys([*setup.unknown, *_known_to_us_alone(setup)]):
        yield finding(
            "D-UNKNOWN-KEY",
            f"{key}: {setup.given.get(key)}: {setup.parser} does not know it",
            RENAMED.get(key, "check its spelling, or remove it"),
        )


def _known_to_us_alone(setup: TrainingSetup) -> list[str]:
    """Keys of older versions of TRL, which entangle reads and the installed version does not."""
    return [] if setup.parser is None else [key for key in RENAMED if key in setup.given]


def _beta(setup: TrainingSetup) -> Iterator[Finding]:
    loss = setup.loss
    if loss is not None and loss.beta == 0 and LOSSES[loss.name].uses_beta:
        yield finding("D-BETA-ZERO", f"beta is 0 under {loss.name}", "set beta, usually from 0.01 to 0.5")


def _learning_rate(setup: TrainingSetup) -> Iterator[Finding]:
    if setup.learning_rate == 0:
        yield finding("D-LEARNING-RATE-ZERO", "learning_rate: 0", "set it, usually from 1e-7 to 1e-5 for all weights")


def _reference(setup: TrainingSetup) -> Iterator[Finding]:
    if setup.loss is not None and not LOSSES[setup.loss.name].uses_reference:
        return
    if is_on(setup.given.get("reference_free")):
        yield finding("D-NO-REFERENCE", "reference_free: true: the reference is uniform", "remove reference_free")
    if is_on(setup.given.get("sync_ref_model")):
        keys = Keys(setup.trainer, setup.given)
        if keys.amount("ref_model_mixup_alpha", 0.6) >= 1 and keys.amount("ref_model_sync_steps", 512) <= 1:
            yield finding(
                "D-NO-REFERENCE",
                "sync_ref_model copies the policy into the reference after every step",
                "raise ref_model_sync_steps, or lower ref_model_mixup_alpha",
            )


def _loss_weights(setup: TrainingSetup) -> Iterator[Finding]:
    for types, weights in (("loss_type", "loss_weights"), ("dpo_loss_type", "dpo_loss_weights")):
        losses, values = setup.given.get(types), setup.given.get(weights)
        if not isinstance(values, list):
            continue
        count = len(losses) if isinstance(losses, list) else 1
        if len(values) != count:
            yield finding(
                "D-LOSS-WEIGHTS",
                f"{weights} has {len(values)} numbers for {count} in {types}",
                f"give one weight for each loss in {types}",
            )


def _ignored(setup: TrainingSetup) -> Iterator[Finding]:
    for key, reason, remedy in _ignored_keys(setup):
        yield finding("D-IGNORED", f"{key}: {setup.given.get(key)}: {reason}", remedy)


def _ignored_keys(setup: TrainingSetup) -> Iterator[tuple[str, str, str]]:
    """Key, why it has no effect, and the next step."""
    given, loss = setup.given, setup.loss
    for key in ("label_smoothing", "dpo_label_smoothing") if setup.trainer != "LLaMA-Factory" else ():
        if is_on(given.get(key)) and loss is not None and loss.name not in SMOOTHED:
            yield key, f"TRL's {loss.name} loss does not read it", "use loss_type: robust, or remove it"
    switch, keys = LORA_KEYS[setup.trainer]
    named = [key for key in keys if is_on(given.get(key))]
    if named and setup.lora is None and setup.adapter is None:
        yield named[0], f"no adapter is trained without {switch}", f"set {switch}, or remove the keys of LoRA"
    if is_on(given.get("simpo_gamma")) and loss is not None and loss.name not in ("simpo", "alphapo"):
        yield "simpo_gamma", f"the loss is {loss.name}", "set the loss to SimPO, or remove it"
    if setup.trainer == "axolotl" and setup.adapter and setup.method in ("dpo", "ipo", "kto"):
        yield (
            "lora_model_dir",
            f"rl: {setup.method} trains a new adapter and does not load this one",
            "merge that adapter into the base model first",
        )
    if setup.trainer == "LLaMA-Factory" and given.get("pref_loss") in ("hinge", "ipo") and _breaks_pref_loss():
        other = {"hinge": "sigmoid", "ipo": "sigmoid over token averages"}[str(given["pref_loss"])]
        yield "pref_loss", f"with TRL {version('trl')}, LLaMA-Factory 0.9.5 trains {other}", "install TRL 0.19"


def _breaks_pref_loss() -> bool:
    try:
        installed = Version(version("trl"))
    except PackageNotFoundError:
        return False
    return BROKEN_LLAMA_FACTORY[0] <= installed < BROKEN_LLAMA_FACTORY[1]


def _accumulation(setup: TrainingSetup) -> Iterator[Finding]:
    loss = setup.loss
    if loss is None or setup.batch_size is None:
        return
    depends = LOSSES[loss.name].depends_on_batch or loss.name in BATCH_AVERAGES
    if setup.trainer == "LLaMA-Factory" and loss.name == "sigmoid_sft":
        depends = False  # it averages over the tokens of each pair
    if depends and (setup.accumulate > 1 or setup.batch_size == 1):
        yield finding(
            "D-ACCUMULATION",
            f"{loss.name} with {setup.batch_size} pairs per forward pass and {setup.accumulate} passes per step",
            "use larger batches and fewer accumulation steps, as far as memory allows",
        )


def _attention(setup: TrainingSetup) -> Iterator[Finding]:
    wanted = str(setup.given.get("attn_implementation") or "")
    if setup.given.get("flash_attn") == "fa2" or is_on(setup.given.get("flash_attention")):
        wanted = "flash_attention_2"
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(wanted)
    if package is not None and find_spec(package) is None:
        yield finding(
            "D-ATTENTION",
            f"{wanted}: the package {package} is not installed on this machine",
            "install it where you train, or use sdpa, which needs no package",
        )
