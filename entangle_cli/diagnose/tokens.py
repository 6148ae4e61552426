"""Token-level analysis of a pair: products of token gradients, effects of tokens, and effects of masking a role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from math import sqrt
from typing import Any

import numpy as np

from entangle_cli.analysis.losses.loss import LossPoint
from entangle_cli.analysis.losses.table import loss_coefficients
from entangle_cli.analysis.tokens import Role, cosines, masked_roles, pushes, role_products, token_roles
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.scan.scan import Scan, open_scan
from entangle_cli.diagnose.views.movements import describe_loss
from entangle_cli.engine.token_grams import planned_passes, token_gram
from entangle_cli.errors import DataError, NothingToJudgeError, UsageError
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.settings import LossSettings, ScanSettings


@dataclass(frozen=True, slots=True)
class TokenReport:
    """The result of the token-level analysis of a pair."""

    document: Mapping[str, Any]
    """JSON-able; without the Gram matrix."""
    gram_NN: Floats
    """Inner products of the token gradients. The tokens of the chosen answer come first."""

    @property
    def cosines(self) -> Floats:
        """Cosines between token gradients; NaN if a token has no gradient."""
        return cosines(self.gram_NN)

    def npy(self) -> bytes:
        """The inner products as the content of an .npy file."""
        stream = BytesIO()
        np.save(stream, self.gram_NN)
        return stream.getvalue()


def pair_tokens(
    model: str,
    data: str | Sequence[str],
    row: int,
    pair_in_row: int | None,
    settings: ScanSettings,
    notify: Callable[[str], None] = lambda _: None,
) -> TokenReport:
    """The result of `entangle tokens` for one pair.

    Args:
        row: index of the row in the data.
        pair_in_row: number of the pair in a ranked row; None for the first.
        notify: called with a sentence about the next step.
    Raises:
        DataError, ModelError, UsageError: see `scan.open_scan`; UsageError also if the row or pair does not exist.
        NothingToJudgeError: the row cannot be measured.
    """
    with open_scan(model, data, replace(settings, limit=row + 1)) as scan:
        prepared = _prepared(scan, row, pair_in_row)
        record = scan.measurer.measure([prepared]).pairs[0]
        # One pass needs room for the longest sequence twice, even if memory is short.
        longest = max(len(side.ids) for side in (prepared.tokens.pair.chosen, prepared.tokens.pair.rejected))
        max_tokens = max(scan.fitting_tokens, 2 * longest)
        passes, tokens = planned_passes(prepared.tokens.pair, max_tokens)
        notify(f"{tokens:,} tokens, {passes:,} passes of up to {max_tokens:,} tokens with padding")
        gram = token_gram(scan.checkpoint.model, scan.parameters, prepared.tokens.pair, max_tokens)
        gram_NN = gram.gram_NN.numpy()
        document = _document(scan, prepared, record, gram_NN, gram.log_probs_N.numpy(), settings.loss)
    return TokenReport(document, gram_NN)


def _prepared(scan: Scan, row: int, pair_in_row: int | None) -> PreparedRow:
    pairs = scan.reader.pairs_of(row)
    if not pairs:
        raise UsageError(
            f"--pair {row}: the data have {scan.plan.num_rows:,} rows",
            "the index of a row, counted from 0",
            "look up the row's `index` in the report of a scan",
        )
    number = pair_in_row or 0
    if number >= len(pairs):
        num_pairs = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
        raise UsageError(
            f"--pair {row} --pair-in-row {number}: the row has {num_pairs}",
            f"a number from 0 to {len(pairs) - 1}",
            "choose a number in this range",
        )
    chosen = pairs[number]
    if isinstance(chosen, SkippedRow):
        raise NothingToJudgeError(
            f"--pair {row}: {chosen.reason}: {chosen.detail}", "a pair that can be measured", "choose another row"
        )
    return chosen


def _document(
    scan: Scan, row: PreparedRow, record: PairRecord, gram_NN: Floats, log_probs_N: Floats, loss: LossSettings
) -> dict[str, Any]:
    pair = row.tokens.pair
    ids = [list(side.ids[side.first_scored :]) for side in (pair.chosen, pair.rejected)]
    num_chosen = len(ids[0])
    roles = [role for side in token_roles(*ids) for role in side]

    def coefficients_of(mask_N: Floats) -> tuple[float, float]:
        return _coefficients(record, loss, mask_N, log_probs_N)

    coefficients = coefficients_of(np.ones(len(roles)))
    push = pushes(gram_NN, num_chosen, coefficients)
    return {
        "schema": "entangle.tokens",
        "schema_version": "1.0",
        "predictor": "pair-sgd",
        "model": scan.plan.model,
        "data": scan.plan.data,
        "pair": {name: getattr(record, name) for name in ("index", "file", "line", "pair_in_row", "pair_id")},
        "loss": {**asdict(loss), "words": describe_loss(loss), "chosen_coefficient": coefficients[0]}
        | {"rejected_coefficient": coefficients[1]},
        "checks": _checks(record, gram_NN, num_chosen, log_probs_N),
        "tokens": _tokens(scan, ids, roles, gram_NN, log_probs_N, push.tokens_N, push.by_tokens_2N),
        "roles": role_products(gram_NN, num_chosen, roles),
        "masks": masked_roles(gram_NN, num_chosen, coefficients_of, roles),
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


def _checks(record: PairRecord, gram_NN: Floats, num_chosen: int, log_probs_N: Floats) -> list[dict[str, Any]]:
    """Sums over the Gram matrix, compared with the values from the scan."""
    chosen, rejected = slice(0, num_chosen), slice(num_chosen, None)
    sums = {
        "chosen_log_prob": (log_probs_N[chosen].sum(), record.chosen_log_prob),
        "rejected_log_prob": (log_probs_N[rejected].sum(), record.rejected_log_prob),
        "chosen_grad_norm": (sqrt(max(0.0, gram_NN[chosen, chosen].sum())), record.chosen_grad_norm),
        "rejected_grad_norm": (sqrt(max(0.0, gram_NN[rejected, rejected].sum())), record.rejected_grad_norm),
        "inner_product": (gram_NN[chosen, rejected].sum(), record.inner_product),
    }
    return [
        {"name": name, "from_tokens": float(total), "measured": measured} for name, (total, measured) in sums.items()
    ]


def _tokens(
    scan: Scan,
    ids: list[list[int]],
    roles: list[Role],
    gram_NN: Floats,
    log_probs_N: Floats,
    pushes_N: Floats,
    by_tokens_2N: Floats,
) -> list[dict[str, Any]]:
    sides = [("chosen", position, token) for position, token in enumerate(ids[0])]
    sides += [("rejected", position, token) for position, token in enumerate(ids[1])]
    return [
        {
            "answer": answer,
            "position": position,
            "id": token,
            "text": scan.checkpoint.tokenizer.decode([token]) or scan.checkpoint.tokenizer.convert_ids_to_tokens(token),
            "role": roles[number].value,
            "log_prob": float(log_probs_N[number]),
            "grad_norm": sqrt(max(0.0, float(gram_NN[number, number]))),
            "delta": float(pushes_N[number]),
            "pushes_chosen": float(by_tokens_2N[0, number]),
            "pushes_rejected": float(by_tokens_2N[1, number]),
        }
        for number, (answer, position, token) in enumerate(sides)
    ]
