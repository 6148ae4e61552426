"""Token-level analysis of a pair: products of token gradients, effects of tokens, and effects of masking a role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from math import sqrt
from typing import Any, Protocol

import numpy as np

from entangle_cli.analysis.losses.loss import LossPoint
from entangle_cli.analysis.losses.table import loss_coefficients
from entangle_cli.analysis.token_sums import Role, TokenSums
from entangle_cli.analysis.tokens import (
    Pushes,
    concentration,
    cosines,
    masked_roles,
    pushes,
    role_products,
    token_roles,
)
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.diagnose.scan.opening import open_local_scan
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.scan.scan import Scan
from entangle_cli.diagnose.views.movements import describe_loss
from entangle_cli.engine.token_grams import planned_passes, token_gram_blocks
from entangle_cli.errors import DataError, NothingToJudgeError, UsageError
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.settings import LossSettings, ScanSettings
from entangle_cli.records.words import counted


class Observer(Protocol):
    """Is called while tokens are measured."""

    def planned(self, num_tokens: int, num_passes: int, max_tokens: int) -> None:
        """The plan is known."""

    def measuring(self, num_passes: int) -> AbstractContextManager[Callable[[], None]]:
        """Around the passes; gives what is called after each."""


@dataclass(frozen=True, slots=True)
class TokenReport:
    """The tokens of a pair."""

    document: Mapping[str, Any]
    """JSON-able, without the Gram matrix."""
    shown_cosines: Floats
    """Cosines of the first tokens of both answers, chosen down, rejected across; see `token_sums.SHOWN_TOKENS`."""
    gram_NN: Floats | None
    """Inner products of all token gradients, chosen first; None unless asked for."""

    @property
    def cosines(self) -> Floats:
        """Cosines between the token gradients, [N, N]; NaN if a token has no gradient.

        Raises:
            UsageError: the report was made without the Gram matrix.
        """
        return cosines(self._gram())

    def npy(self) -> bytes:
        """The inner products as a numpy file.

        Raises:
            UsageError: the report was made without the Gram matrix.
        """
        stream = BytesIO()
        np.save(stream, self._gram())
        return stream.getvalue()

    def _gram(self) -> Floats:
        if self.gram_NN is None:
            raise UsageError("a report without its Gram matrix", "the Gram matrix", "measure with with_gram=True")
        return self.gram_NN


def pair_tokens(
    model: str,
    data: str | Sequence[str],
    row: int,
    pair_in_row: int | None,
    settings: ScanSettings,
    observer: Observer,
    *,
    with_gram: bool,
) -> TokenReport:
    """The result of `entangle tokens` for one pair.

    Args:
        row: index of the row in the data.
        pair_in_row: number of the pair in a ranked row; None for the first.
        observer: is called with the plan, and after every pass.
        with_gram: keep the Gram matrix, whose memory grows with the square of the tokens.
    Raises:
        DataError, ModelError, UsageError: see `opening.open_scan`; UsageError also if the row or pair does not exist.
        NothingToJudgeError: the row cannot be measured.
    """
    with open_local_scan(model, data, replace(settings, limit=row + 1)) as (scan, loaded):
        prepared = _prepared(scan, row, pair_in_row)
        record = loaded.measurer.measure([prepared]).pairs[0]
        # One pass needs room for the longest sequence twice, even if memory is short.
        longest = max(len(side.ids) for side in (prepared.tokens.pair.chosen, prepared.tokens.pair.rejected))
        max_tokens = max(loaded.fitting_tokens, 2 * longest)
        passes, tokens = planned_passes(prepared.tokens.pair, max_tokens)
        observer.planned(tokens, passes, max_tokens)
        sums = _token_sums(prepared)
        log_probs_N = np.zeros(tokens)
        gram_NN = np.zeros((tokens, tokens)) if with_gram else None
        with observer.measuring(passes) as passed:
            blocks = token_gram_blocks(
                loaded.checkpoint.model, loaded.parameters, prepared.tokens.pair, max_tokens, passed
            )
            for block in blocks:
                gram = block.gram_BB.numpy()
                sums.add(block.rows, block.columns, gram)
                if block.log_probs_B is not None:
                    log_probs_N[list(block.rows)] = block.log_probs_B.numpy()
                if gram_NN is not None:
                    gram_NN[np.ix_(block.columns, block.rows)] = gram.T
                    gram_NN[np.ix_(block.rows, block.columns)] = gram
        document = _document(scan, prepared, record, sums, log_probs_N, settings.loss, loaded.checkpoint.tokenizer)
    return TokenReport(document, sums.shown_cosines, gram_NN)


def _token_sums(row: PreparedRow) -> TokenSums:
    ids = _scored_ids(row)
    return TokenSums(len(ids[0]), [role for side in token_roles(*ids) for role in side])


def _scored_ids(row: PreparedRow) -> list[list[int]]:
    """Ids of the scored tokens of both answers."""
    return [list(side.ids[side.first_scored :]) for side in (row.tokens.pair.chosen, row.tokens.pair.rejected)]


def _prepared(scan: Scan, row: int, pair_in_row: int | None) -> PreparedRow:
    pairs = scan.reader.pairs_of(row)
    if not pairs:
        raise UsageError(
            f"--row {row}: the data have {counted(scan.plan.num_rows, 'row')}",
            "the index of a row, counted from 0",
            "look up the row's `index` in the report of a scan",
        )
    number = pair_in_row or 0
    if number >= len(pairs):
        num_pairs = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
        raise UsageError(
            f"--row {row} --pair-in-row {number}: the row has {num_pairs}",
            f"a number from 0 to {len(pairs) - 1}",
            "choose a number in this range",
        )
    chosen = pairs[number]
    if isinstance(chosen, SkippedRow):
        raise NothingToJudgeError(
            f"--row {row}: {chosen.reason}: {chosen.detail}", "a pair that can be measured", "choose another row"
        )
    return chosen


def _document(
    scan: Scan,
    row: PreparedRow,
    record: PairRecord,
    sums: TokenSums,
    log_probs_N: Floats,
    loss: LossSettings,
    tokenizer: Any,
) -> dict[str, Any]:
    def coefficients_of(mask_N: Floats) -> tuple[float, float]:
        return _coefficients(record, loss, mask_N, log_probs_N)

    coefficients = coefficients_of(np.ones(len(sums.roles)))
    return {
        "schema": "entangle.tokens",
        "schema_version": "1.0",
        "predictor": "pair-sgd",
        "model": scan.plan.model,
        "data": scan.plan.data,
        "pair": {name: getattr(record, name) for name in ("index", "file", "line", "pair_in_row", "pair_id")},
        "loss": {**asdict(loss), "words": describe_loss(loss), "chosen_coefficient": coefficients[0]}
        | {"rejected_coefficient": coefficients[1]},
        "concentration": concentration(sums),
        "checks": _checks(record, sums, log_probs_N),
        "tokens": _tokens(tokenizer, _scored_ids(row), sums, log_probs_N, pushes(sums, coefficients)),
        "roles": role_products(sums),
        "masks": masked_roles(sums, coefficients_of),
    }


def _coefficients(record: PairRecord, loss: LossSettings, mask_N: Floats, log_probs_N: Floats) -> tuple[float, float]:
    """The loss coefficients of a pair with masked tokens.

    Without reference log-probs, the policy is its own reference. Reference log-probs exist for whole answers only: the
    masked tokens are assumed to have the same log-probs under the reference as under the policy.
    """
    num_chosen = record.chosen_tokens or 0
    kept = (log_probs_N * mask_N, log_probs_N * (1 - mask_N))
    chosen, rejected = (float(kept[0][part].sum()) for part in (slice(num_chosen), slice(num_chosen, None)))
    left_out = [float(kept[1][part].sum()) for part in (slice(num_chosen), slice(num_chosen, None))]
    references = [
        policy if whole is None else whole - masked
        for policy, whole, masked in zip(
            (chosen, rejected), (record.chosen_ref_log_prob, record.rejected_ref_log_prob), left_out, strict=True
        )
    ]
    # A fully masked answer has no effect, so the value of its coefficient does not matter.
    lengths = [max(1.0, float(mask_N[part].sum())) for part in (slice(num_chosen), slice(num_chosen, None))]
    point = LossPoint(*(np.array([value]) for value in (chosen, rejected, *references, *lengths)))
    coefficients = tuple(float(side[0]) for side in loss_coefficients(loss, point))
    if not np.isfinite(coefficients).all():
        raise DataError(
            f"the loss {loss.name} has no finite coefficients for this pair",
            "a pair for which the loss is defined",
            "choose another pair or another --loss",
        )
    return coefficients[0], coefficients[1]


def _checks(record: PairRecord, sums: TokenSums, log_probs_N: Floats) -> list[dict[str, Any]]:
    """Sums over the Gram matrix, compared with the values from the scan."""
    chosen, rejected = slice(0, sums.num_chosen), slice(sums.num_chosen, None)
    of_chosen, of_rejected = sums.by_group_NG[:, : len(Role)].sum(1), sums.by_group_NG[:, len(Role) :].sum(1)
    values = {
        "chosen_log_prob": (log_probs_N[chosen].sum(), record.chosen_log_prob),
        "rejected_log_prob": (log_probs_N[rejected].sum(), record.rejected_log_prob),
        "chosen_grad_norm": (sqrt(max(0.0, of_chosen[chosen].sum())), record.chosen_grad_norm),
        "rejected_grad_norm": (sqrt(max(0.0, of_rejected[rejected].sum())), record.rejected_grad_norm),
        "inner_product": (of_rejected[chosen].sum(), record.inner_product),
    }
    return [
        {"name": name, "from_tokens": float(total), "measured": measured} for name, (total, measured) in values.items()
    ]


def _tokens(
    tokenizer: Any, ids: list[list[int]], sums: TokenSums, log_probs_N: Floats, push: Pushes
) -> list[dict[str, Any]]:
    texts = {answer: token_texts(tokenizer, side) for answer, side in zip(ANSWERS, ids, strict=True)}
    sides = [("chosen", position, token) for position, token in enumerate(ids[0])]
    sides += [("rejected", position, token) for position, token in enumerate(ids[1])]
    return [
        {
            "answer": answer,
            "position": position,
            "id": token,
            "text": texts[answer][position],
            "role": sums.roles[number].value,
            "log_prob": float(log_probs_N[number]),
            "grad_norm": sqrt(max(0.0, float(sums.diagonal_N[number]))),
            "delta": float(push.tokens_N[number]),
            "pushes_chosen": float(push.by_tokens_2N[0, number]),
            "pushes_rejected": float(push.by_tokens_2N[1, number]),
        }
        for number, (answer, position, token) in enumerate(sides)
    ]


ANSWERS = ("chosen", "rejected")
REPLACEMENT = "\ufffd"
"""What a decoder writes for a part of a character."""
CONTEXT = 4
"""Tokens before one that decide how it is written, such as whether a blank comes before it."""


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as it stands in the decoded text; its name where it adds nothing, as half of a character does."""
    texts = []
    for place, token in enumerate(ids):
        start = max(0, place - CONTEXT)
        before, after = (tokenizer.decode(list(ids[start:end])) for end in (place, place + 1))
        added = after[len(before) :] if after.startswith(before) else ""
        is_whole = added and REPLACEMENT not in added
        texts.append(added if is_whole else str(tokenizer.convert_ids_to_tokens(token)))
    return texts
