"""What a trainer's file says that the training would not do, or not as meant. Needs no model and no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from packaging.version import Version

from entangle_cli.analysis.losses.table import LOSSES
from entangle_cli.data.trainer_files.keys import Keys, is_off
from entangle_cli.data.trainer_files.trl_losses import SMOOTHED
from entangle_cli.diagnose.doctor.refusals import refusals
from entangle_cli.records.finding import Finding, Severity, finding
from entangle_cli.records.training_setup import TrainingSetup
from entangle_cli.records.words import counted

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
    "reference_free": "remove it; TRL uses a reference",
    "ref_model_name_or_path": "remove it; TRL's own script takes the reference from model_name_or_path",
    "evaluation_strategy": "use eval_strategy",
    "max_completion_length": "remove it; TRL cuts the whole sequence at max_length",
    "rpo_alpha": "use loss_type: [sigmoid, sft] with loss_weights: [1.0, ALPHA]",
}
"""Keys of older versions and of other scripts that TRL does not know, to the next step."""

FEW_ROWS = 4
"""Rows per forward pass below which losses that compare them are far from those of a whole batch."""
LARGEST_RATE = 1e-3
USUAL_RATES = "set it, usually from 1e-7 to 1e-5 for all weights and up to 1e-4 for LoRA"
SHORTEST_LAG = 10
"""Steps by which a moving reference must lag behind to hold anything."""

BROKEN_LLAMA_FACTORY = (Version("0.20"), Version("0.25"))
"""Versions of TRL in which LLaMA-Factory 0.9.5 loses `pref_loss`."""


def file_findings(setup: TrainingSetup) -> list[Finding]:
    """All findings on a file."""
    checks: tuple[Callable[[TrainingSetup], Iterator[Finding]], ...] = (
        refusals,
        _loss,
        _unknown,
        _unread,
        _beta,
        _learning_rate,
        _reference,
        _loss_weights,
        _ignored,
        _accumulation,
        _attention,
    )
    return [found for check in checks for found in check(setup)]


def _loss(setup: TrainingSetup) -> Iterator[Finding]:
    if setup.loss_problem is not None and not list(refusals(setup)):
        yield finding("D-LOSS", setup.loss_problem, "give a loss with --loss to scan the data all the same")


def _unknown(setup: TrainingSetup) -> Iterator[Finding]:
    for key in setup.unknown:
        yield finding(
            "D-UNKNOWN-KEY",
            f"{key}: {setup.given.get(key)}: {setup.parser} does not know it",
            RENAMED.get(key, "check its spelling, or remove it"),
        )


def _unread(setup: TrainingSetup) -> Iterator[Finding]:
    if setup.unread and setup.parser is None:  # else the trainer knows them
        yield finding(
            "D-UNREAD", f"entangle does not know these keys: {', '.join(setup.unread)}", "check their spelling"
        )


def _beta(setup: TrainingSetup) -> Iterator[Finding]:
    loss = setup.loss
    if loss is None or loss.beta > 0 or not LOSSES[loss.name].uses_beta or (loss.name == "ipo" and loss.beta == 0):
        return
    if loss.beta < 0:
        effect = "the training lowers the margin"
    elif loss.name in ("orpo", "sigmoid_sft") or loss.options.get("nll_weight"):
        effect = "only the likelihood of the chosen answers is trained"
    else:
        effect = "the loss stays where it is, and nothing moves"
    usual = "2 to 10" if loss.name == "simpo" else "0.01 to 0.5"
    yield finding("D-BETA", f"beta is {loss.beta:g} under {loss.name}: {effect}", f"set beta, usually from {usual}")


def _learning_rate(setup: TrainingSetup) -> Iterator[Finding]:
    if setup.learning_rate is not None and setup.learning_rate <= 0:
        yield finding(
            "D-LEARNING-RATE",
            f"learning_rate: {setup.learning_rate:g}",
            USUAL_RATES,
        )
    elif setup.learning_rate is not None and setup.learning_rate > LARGEST_RATE:
        found = finding(
            "D-LEARNING-RATE", f"learning_rate: {setup.learning_rate:g} is far above what is usual", USUAL_RATES
        )
        yield replace(found, severity=Severity.WARNING)


def _reference(setup: TrainingSetup) -> Iterator[Finding]:
    if setup.loss is not None and not LOSSES[setup.loss.name].uses_reference:
        return
    given = {key: value for key, value in setup.given.items() if key not in setup.unknown}
    if not is_off(given.get("reference_free")):
        yield finding("D-NO-REFERENCE", "reference_free: true: the reference is uniform", "remove reference_free")
    if not is_off(given.get("sync_ref_model")):
        keys = Keys(setup.trainer, given)
        share, every = keys.amount("ref_model_mixup_alpha", 0.6), keys.count("ref_model_sync_steps", 512)
        # Each copy moves the reference by that share of its distance, so it lags behind by about this many steps.
        lag = every / share if share > 0 else float("inf")
        if lag < SHORTEST_LAG:
            yield finding(
                "D-NO-REFERENCE",
                f"sync_ref_model: the reference is only about {max(1, round(lag))} steps behind the policy",
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
        if not is_off(given.get(key)) and loss is not None and loss.name not in SMOOTHED:
            yield key, f"TRL's {loss.name} loss does not read it", "use loss_type: robust, or remove it"
    switch, keys = LORA_KEYS[setup.trainer]
    named = [key for key in keys if not is_off(given.get(key))]
    if named and setup.lora is None and setup.adapter is None:
        yield named[0], f"no adapter is trained without {switch}", f"set {switch}, or remove the keys of LoRA"
    if not is_off(given.get("simpo_gamma")) and loss is not None and loss.name not in ("simpo", "alphapo"):
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
    compares_rows = LOSSES[loss.name].depends_on_batch or loss.name == "kto"
    averages_tokens = loss.name == "sigmoid_sft" and setup.trainer != "LLaMA-Factory"  # there, within each pair
    passes = setup.accumulate // setup.num_processes
    if not (compares_rows or averages_tokens) or (passes == 1 and setup.batch_size > 1):
        return
    found = finding(
        "D-ACCUMULATION",
        f"{loss.name} with {counted(setup.batch_size, 'pair')} per forward pass and {passes} passes per step",
        "use larger batches and fewer accumulation steps, as far as memory allows",
    )
    is_mild = averages_tokens or setup.batch_size >= FEW_ROWS
    yield replace(found, severity=Severity.NOTE) if is_mild else found


def _attention(setup: TrainingSetup) -> Iterator[Finding]:
    keys = Keys(setup.trainer, setup.given)
    wanted = keys.text("attn_implementation") or keys.inside("model_init_kwargs").text("attn_implementation") or ""
    if keys.text("flash_attn") == "fa2" or keys.flag("flash_attention"):
        wanted = "flash_attention_2"
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(wanted)
    # transformers takes the kernel from the package kernels where the library itself is missing.
    if package is not None and find_spec(package) is None and find_spec("kernels") is None:
        yield finding(
            "D-ATTENTION",
            f"{wanted}: the package {package} is not installed on this machine",
            "install it where you train, or use sdpa, which needs no package",
        )
