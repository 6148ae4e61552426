"""Checks of a loaded model with plain forward passes, apart from the engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.records.finding import Finding, Severity, finding
from entangle_cli.records.measurement import TokenizedResponse

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Nats per scored token by which rounding may change a row's log-prob."""


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


def batch_findings(
    checkpoint: Checkpoint, rows: Sequence[TokenizedResponse], *, pads_right: bool = False
) -> Iterator[Finding]:
    """Rows alone against the same rows in a batch, padded on the right and on the left.

    Args:
        pads_right: whether the trainer pads on the right whatever the tokenizer does.
    """
    rows = [row for row in rows if row.num_scored]
    if not rows:
        return
    model = checkpoint.model
    alone = torch.cat([plain_log_probs(model, [row]) for row in rows])
    tokens = torch.tensor([row.num_scored for row in rows], dtype=torch.float64)
    tolerance = rounding_tolerance(model, rows, tokens)

    def difference(side: str) -> float:
        """The largest difference, nats per token; 0 if rounding explains all of them."""
        differences = (plain_log_probs(model, rows, side) - alone).abs() / tokens
        return differences.max().item() if (~(differences <= tolerance)).any() else 0.0

    if together := difference("right"):
        yield finding(
            "D-BATCH",
            f"a row's log-prob in a batch of {len(rows)} differs by {together:.2g} nats per token from the row alone",
            "run doctor with --dtype float32; if it still differs, train with attn_implementation: eager and compare",
        )
    if checkpoint.tokenizer.padding_side == "left" and (left := difference("left")):
        found = finding(
            "D-PADDING-SIDE",
            f"the tokenizer pads on the left, which changes a row's log-prob by {left:.2g} nats per token",
            "set padding_side to right for training; TRL's DPOTrainer pads on the right by itself",
        )
        yield replace(found, severity=Severity.NOTE) if pads_right else found


def rounding_tolerance(model: Any, rows: Sequence[TokenizedResponse], tokens: Tensor) -> Tensor:
    """Nats per token by which rounding may change each row, float64, [rows].

    In bfloat16 a logit may be off by two steps of its own rounding, and the errors of a row's tokens average out.
    """
    general = torch.full_like(tokens, TOLERANCE.get(model.dtype, 0.05))
    if model.dtype != torch.bfloat16:
        return general
    longest = max(rows, key=lambda row: len(row.ids))
    with torch.no_grad():
        largest = model(input_ids=torch.tensor([longest.ids], device=model.device)).logits.abs().max().item()
    step = torch.finfo(torch.bfloat16).eps * 2 ** math.floor(math.log2(max(largest, 1.0)))
    return general.maximum(2 * step / tokens.sqrt())


def vocabulary_findings(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The tokenizer's tokens against the model's embeddings. Tokens that no text has do no harm."""
    tokenizer, embeddings = checkpoint.tokenizer, checkpoint.num_embeddings
    if embeddings is None or len(tokenizer) <= embeddings:
        return
    without = [token for token in tokenizer.all_special_ids if token >= embeddings]
    found = f"the tokenizer has {len(tokenizer):,} tokens and the model {embeddings:,} embeddings"
    if without:
        found += f"; without one: {', '.join(tokenizer.convert_ids_to_tokens(without))}"
    one = finding("D-VOCABULARY", found, "use the checkpoint's own tokenizer, or resize the embeddings before training")
    yield one if without else replace(one, severity=Severity.NOTE)
