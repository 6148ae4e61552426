"""Figures as SVG: numbers in, markup out. Only numbers and our own words get in, but for the names of tokens.

Colours and fonts are classes, which the page's style sheet sets for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import Movement
from entangle_cli.report.marks import MARKS, WORDS

MAP_WIDTH, MAP_HEIGHT = 600, 420
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 52
"""Room around the map for ticks and words."""
OCTAVES = (1, 2, 4)
"""Powers of two at the map's edges, of which the smallest is taken that holds nearly all pairs."""
LOWEST = (0.8, 0.5, 0.0, -1.0)
"""Cosines at its bottom, of which the highest is taken below which hardly any pair lies."""
NEARLY_ALL = 0.98
BINS = (64, 40)
"""Of the map's background, across and down."""

SHAPES = {
    Movement.SEPARATES.value: "m-3,0a3,3 0 1 0 6,0a3,3 0 1 0-6,0",
    Movement.BOTH_FALL.value: "m-4.5,-3.4h9l-4.5,7.4z",
    Movement.BOTH_RISE.value: "m-4.5,3.4h9l-4.5,-7.4z",
    Movement.REVERSED.value: "m-3.4,-3.4l6.8,6.8m0,-6.8l-6.8,6.8",
    Movement.STILL.value: "m-3.4,-1.5h6.8m-6.8,3h6.8",
}
"""The mark of each movement, drawn from its point: ring, triangle down, triangle up, cross, two lines."""


@dataclass(frozen=True, slots=True)
class MapScale:
    """Where numbers stand in the map; what lies beyond stands at the edge."""

    octaves: int
    lowest: float

    @classmethod
    def holding(cls, log_ratios: Floats, cosines: Floats) -> MapScale:
        """The closest look that shows nearly all pairs."""
        ratios, known = np.abs(log_ratios[np.isfinite(log_ratios)]), cosines[np.isfinite(cosines)]
        octaves = next(
            (n for n in OCTAVES if np.count_nonzero(ratios <= n * math.log(2)) >= NEARLY_ALL * len(ratios)),
            OCTAVES[-1],
        )
        lowest = next((low for low in LOWEST if np.count_nonzero(known >= low) >= NEARLY_ALL * len(known)), LOWEST[-1])
        return cls(octaves, lowest)

    @property
    def edge(self) -> float:
        """The log ratio at the right edge."""
        return self.octaves * math.log(2)

    def across(self, log_ratio: float) -> float:
        """Of a log ratio, in the map's units."""
        inside = min(self.edge, max(-self.edge, log_ratio))
        return LEFT + (inside + self.edge) / (2 * self.edge) * (MAP_WIDTH - LEFT - RIGHT)

    def down(self, cosine: float) -> float:
        """Of a cosine; 1 is at the top."""
        share = (1 - max(self.lowest, cosine)) / (1 - self.lowest)
        return TOP + share * (MAP_HEIGHT - TOP - BOTTOM)


def movement_map(
    scale: MapScale,
    log_ratios: Floats,
    cosines: Floats,
    shown: Sequence[int],
    movements: Sequence[str | None],
) -> Markup:
    """Every pair by the log of its coefficient-weighted norm ratio and its cosine, with the regions of movement.

    A pair separates where cosine < exp(-|log ratio|); above, both rise on the right and fall on the left.

    Args:
        log_ratios, cosines: of all pairs, [pairs].
        shown: places of the pairs that are drawn as marks; where they are not all, all of them colour the background.
        movements: of the shown pairs.
    """
    across, down = scale.across, scale.down
    top, left, right = down(1), across(-scale.edge), across(scale.edge)
    curve = [scale.edge * x / 40 for x in range(-40, 41)]
    falls = " ".join(f"{across(x):.1f},{down(math.exp(x)):.1f}" for x in curve if x <= 0)
    rises = " ".join(f"{across(x):.1f},{down(math.exp(-x)):.1f}" for x in curve if x >= 0)
    parts = [
        f'<svg id="map" viewBox="0 0 {MAP_WIDTH} {MAP_HEIGHT}" role="img" tabindex="0" '
        'aria-labelledby="map-title map-words"><title id="map-title">Map of all pairs</title>'
        '<desc id="map-words">Across: which gradient is larger, weighted by the loss. Up: cosine of the two gradients. '
        "Above the curves both log-probs move the same way. Arrow keys go from pair to pair.</desc>",
        f'<polygon class="region both_fall" points="{left:.1f},{top:.1f} {falls}"/>',
        f'<polygon class="region both_rise" points="{rises} {right:.1f},{top:.1f}"/>',
        _axes(scale),
        _background(scale, log_ratios, cosines) if len(shown) < len(cosines) else "",
        '<g id="marks">',
    ]
    parts += [
        _mark(scale, float(log_ratios[place]), float(cosines[place]), movement)
        for place, movement in zip(shown, movements, strict=True)
    ]
    return Markup("".join([*parts, "</g>", _regions(scale), "</svg>"]))


def _mark(scale: MapScale, log_ratio: float, cosine: float, movement: str | None) -> str:
    if movement is None or not (math.isfinite(log_ratio) and math.isfinite(cosine)):
        return "<path/>"
    point = f"{scale.across(log_ratio):.0f},{scale.down(cosine):.0f}"
    return f'<path class="{movement}" d="M{point}{SHAPES[movement]}"/>'


def _background(scale: MapScale, log_ratios: Floats, cosines: Floats) -> str:
    """Squares as dark as the logarithm of the pairs in them."""
    known = np.isfinite(log_ratios) & np.isfinite(cosines)
    edge, lowest = scale.edge, scale.lowest
    counts, _, _ = np.histogram2d(
        np.clip(log_ratios[known], -edge, edge),
        np.clip(cosines[known], lowest, 1.0),
        bins=BINS,
        range=[[-edge, edge], [lowest, 1]],
    )
    left, bottom = scale.across(-edge), scale.down(-1)
    width, height = (scale.across(edge) - left) / BINS[0], (bottom - scale.down(1)) / BINS[1]
    top = math.log1p(float(counts.max(initial=0))) or 1.0
    squares = [
        f'<rect class="density" x="{left + column * width:.1f}" y="{bottom - (row + 1) * height:.1f}" '
        f'width="{width:.1f}" height="{height:.1f}" opacity="{0.08 + 0.5 * math.log1p(count) / top:.2f}"/>'
        for (column, row), count in np.ndenumerate(counts)
        if count
    ]
    return "".join(squares)


def _axes(scale: MapScale) -> str:
    left, right, top, bottom = scale.across(-scale.edge), scale.across(scale.edge), scale.down(1), scale.down(-1)
    step = max(1, scale.octaves // 2)
    parts = []
    for octave in range(-scale.octaves, scale.octaves + 1, step):
        x = scale.across(octave * math.log(2))
        words = "equal" if not octave else f"1:{2**-octave}" if octave < 0 else f"{2**octave}:1"
        anchor = "start" if octave == -scale.octaves else "end" if octave == scale.octaves else "middle"
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom:.1f}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17:.1f}" text-anchor="{anchor}">{words}</text>')
    for cosine in np.linspace(scale.lowest, 1.0, 5):
        y = scale.down(float(cosine))
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{cosine:.3g}</text>')
    middle, side = (left + right) / 2, (top + bottom) / 2
    parts.append(
        f'<text class="tick" x="{middle:.1f}" y="{MAP_HEIGHT - 8}" text-anchor="middle">'
        "rejected gradient larger &#8592; &#183; &#8594; chosen gradient larger</text>"
        f'<text class="tick" x="13" y="{side:.1f}" text-anchor="middle" transform="rotate(-90 13 {side:.1f})">'
        "cosine of the two gradients</text>"
    )
    return "".join(parts)


def _regions(scale: MapScale) -> str:
    left, right, top, bottom = scale.across(-scale.edge), scale.across(scale.edge), scale.down(1), scale.down(-1)
    words = [
        (left + 8, top + 18, "start", Movement.BOTH_FALL),
        (right - 8, top + 18, "end", Movement.BOTH_RISE),
        ((left + right) / 2, bottom - 10, "middle", Movement.SEPARATES),
    ]
    return "".join(
        f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{MARKS[kind]} {WORDS[kind]}</text>'
        for x, y, anchor, kind in words
    )


def histogram_bars(edges: Sequence[float], counts: Sequence[int], title: str) -> Markup:
    """A histogram with its range below, and a line at 0 where the range holds it."""
    width, height, base = 300, 112, 84
    top = max(counts, default=0) or 1
    low, high = edges[0], edges[-1]
    step = (width - 20) / max(1, len(counts))
    outline = "".join(f"V{base - 70 * count / top:.0f}h{step:.1f}" for count in counts)
    bars = f'<path class="count" d="M10,{base}{outline}V{base}z"/>'
    zero = 10 + (0 - low) / (high - low) * (width - 20)
    marked = (
        f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="6" y2="{base}"/>'
        f'<text class="tick" x="{zero:.1f}" y="{base + 18}" text-anchor="middle">0</text>'
        if low < 0 < high
        else ""
    )
    ends = (f"{edge:+.3g}" for edge in (low, high))
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Histogram of {title}">{bars}'
        f'<line class="axis" x1="10" x2="{width - 10}" y1="{base}" y2="{base}"/>{marked}'
        f'<text class="tick" x="10" y="{base + 18}">{next(ends)}</text>'
        f'<text class="tick" x="{width - 10}" y="{base + 18}" text-anchor="end">{next(ends)}</text></svg>'
    )


HEAT_CELLS = 150
"""Of a heat map at most, each way; more tokens are averaged over."""
NAMED_CELLS = 60
"""Tokens each way up to which every row and column has its name."""
NAME_CHARACTERS = 10


def _binned(block: Floats) -> Floats:
    """A matrix of at most `HEAT_CELLS` rows and columns, averages over what falls into a cell; NaN does not count."""
    for axis in (0, 1):
        parts = np.array_split(block, min(HEAT_CELLS, block.shape[axis]), axis=axis)
        if len(parts) < block.shape[axis]:
            sums = [np.nansum(part, axis=axis) for part in parts]
            counts = [np.count_nonzero(~np.isnan(part), axis=axis) for part in parts]
            with np.errstate(invalid="ignore"):
                block = np.stack([total / count for total, count in zip(sums, counts, strict=True)], axis=axis)
    return block


def heat_map(cosines: Any, names: Sequence[Sequence[str]]) -> Markup:
    """Cosines of the tokens' gradients, chosen down and rejected across, orange above 0 and blue below.

    Args:
        cosines: [N, N], chosen first; NaN where a token has no gradient.
        names: of the chosen and of the rejected answer's tokens, as they are shown.
    """
    num_chosen = len(names[0])
    block = _binned(np.asarray(cosines, dtype=np.float64)[:num_chosen, num_chosen:])
    named = max(map(len, names)) <= NAMED_CELLS
    size = 16 if named else max(4, min(16, 900 // max(1, *block.shape)))
    left, top = (9 * NAME_CHARACTERS, 9 * NAME_CHARACTERS) if named else (0, 0)
    parts = [
        f'<svg class="heat" width="{left + size * block.shape[1]}" height="{top + size * block.shape[0]}" role="img" '
        'aria-label="Cosines of the gradients of the tokens of both answers">'
    ]
    if named:
        parts += _names(names, size, left, top)
    for (row, column), cosine in np.ndenumerate(block):
        if math.isfinite(cosine):
            kind = "positive" if cosine > 0 else "negative"
            parts.append(
                f'<rect class="{kind}" x="{left + size * column}" y="{top + size * row}" width="{size}" '
                f'height="{size}" opacity="{abs(cosine):.2f}"/>'
            )
    return Markup("".join([*parts, "</svg>"]))


def _names(names: Sequence[Sequence[str]], size: int, left: int, top: int) -> list[str]:
    """Token names beside the rows and, turned, above the columns; the only text of a data set in a figure, escaped."""
    parts = []
    for row, name in enumerate(names[0]):
        y = top + size * row + size - 4
        parts.append(f'<text class="tick" x="{left - 6}" y="{y}" text-anchor="end">{_short(name)}</text>')
    for column, name in enumerate(names[1]):
        x, y = left + size * column + size - 4, top - 6
        parts.append(f'<text class="tick" x="{x}" y="{y}" transform="rotate(-90 {x} {y})">{_short(name)}</text>')
    return parts


def _short(name: str) -> Markup:
    return escape(name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "~")
