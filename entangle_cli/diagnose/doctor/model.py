"""Checks of a loaded model with plain forward passes, apart from the engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.records.finding import Finding, finding
from entangle_cli.records.measurement import TokenizedResponse

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Nats per scored token by which rounding may change a row's log-prob."""

SAMPLED_WEIGHTS = 1_000_000
LOST_SHARE = 0.5
"""Share of the weights that a step must change at least."""


class _AttentionCalls(TorchDispatchMode):
    """Notes the operators of attention that run inside the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        if "attention" in name and "backward" not in name:
            self.names.add(name.strip("_"))
        return func(*args, **(kwargs or {}))


def attention_kernel(checkpoint: Checkpoint) -> str:
    """The implementation of attention and the operator that ran in one forward pass."""
    model = checkpoint.model
    implementation = getattr(model.config.get_text_config(), "_attn_implementation", None) or "eager"
    ids = torch.zeros(1, 8, dtype=torch.long, device=model.device)
    with torch.no_grad(), _AttentionCalls() as calls:
        model(input_ids=ids)
    return f"{implementation} ({', '.join(sorted(calls.names)) or 'matrix products and softmax'})"


def plain_log_probs(model: Any, rows: Sequence[TokenizedResponse], side: str = "right") -> Tensor:
    """Summed log-probs of the scored tokens in one padded batch, nats, float64, [rows].

    Args:
        side: `right` or `left`, where padding goes. The model makes its own positions, as in a trainer.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    starts = [0 if side == "right" else longest - len(row.ids) for row in rows]
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[number, start : start + len(row.ids)] = torch.tensor(row.ids)
        mask[number, start : start + len(row.ids)] = 1
    device = model.device
    with torch.no_grad():
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    sums = []
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        first, last = start + row.first_scored, start + len(row.ids)
        log_probs = logits[number, first - 1 : last - 1].double().log_softmax(-1)
        targets = torch.tensor(row.ids[row.first_scored :], device=device)
        sums.append(log_probs.gather(-1, targets[:, None]).sum())
    return torch.stack(sums).cpu()


def batch_findings(checkpoint: Checkpoint, rows: Sequence[TokenizedResponse]) -> Iterator[Finding]:
    """Rows alone against the same rows in a batch, padded on the right and on the left."""
    rows = [row for row in rows if row.num_scored]
    if not rows:
        return
    model = checkpoint.model
    alone = torch.cat([plain_log_probs(model, [row]) for row in rows])
    tokens = torch.tensor([row.num_scored for row in rows], dtype=torch.float64)
    tolerance = TOLERANCE.get(model.dtype, 0.05)
    together = ((plain_log_probs(model, rows) - alone).abs() / tokens).max().item()
    if not together <= tolerance:
        yield finding(
            "D-BATCH",
            f"a row's log-prob in a batch of {len(rows)} differs by {together:.2g} nats per token from the row alone",
            "train with --attn-implementation eager or another version of transformers, and compare again",
        )
    if checkpoint.tokenizer.padding_side != "left":
        return
    left = ((plain_log_probs(model, rows, "left") - alone).abs() / tokens).max().item()
    if not left <= tolerance:
        yield finding(
            "D-PADDING-SIDE",
            f"the tokenizer pads on the left, which changes a row's log-prob by {left:.2g} nats per token",
            "set padding_side to right for training; TRL's DPOTrainer pads on the right by itself",
        )


def lost_steps(checkpoint: Checkpoint, learning_rate: float) -> Iterator[Finding]:
    """Whether AdamW's first step, the learning rate for every weight, survives rounding to bfloat16."""
    changed = total = 0
    parameters = [parameter for parameter in checkpoint.model.parameters() if parameter.is_floating_point()]
    share = min(1.0, SAMPLED_WEIGHTS / max(1, sum(parameter.numel() for parameter in parameters)))
    for parameter in parameters:
        stride = max(1, math.floor(1 / share))
        weights = parameter.detach().flatten()[::stride].to(torch.bfloat16)
        stepped = (weights.float() - learning_rate * weights.float().sign()).to(torch.bfloat16)
        changed += int((stepped != weights).sum())
        total += weights.numel()
    if total and changed / total < LOST_SHARE:
        yield finding(
            "D-LEARNING-RATE-LOST",
            f"a step of {learning_rate:g} changes {changed / total:.1%} of the bfloat16 weights; the others round back",
            "load float32 weights and use bf16 mixed precision, train LoRA, or raise the learning rate",
        )


def dropout_of(checkpoint: Checkpoint) -> float:
    """The largest dropout probability of the model; 0.0 without dropout."""
    modules = [module.p for module in checkpoint.model.modules() if isinstance(module, nn.Dropout)]
    config = checkpoint.model.config.get_text_config()
    return float(max([*modules, getattr(config, "attention_dropout", 0.0) or 0.0], default=0.0))


def vocabulary_findings(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The tokenizer's tokens against the model's embeddings."""
    tokens, embeddings = len(checkpoint.tokenizer), checkpoint.num_embeddings
    if embeddings is not None and tokens > embeddings:
        yield finding(
            "D-VOCABULARY",
            f"the tokenizer has {tokens:,} tokens and the model {embeddings:,} embeddings",
            "use the checkpoint's own tokenizer, or resize the embeddings before training",
        )
