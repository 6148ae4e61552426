"""Figures as SVG: numbers in, markup out. Only numbers and our own words get in, so that there is nothing to escape.

Colours and fonts are classes, which the page's style sheet sets for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from entangle_cli.records.arrays import Floats

MAP_WIDTH, MAP_HEIGHT = 640, 400
MARGIN = 44
RANGES = (0.5, 1.0, 2.0)
"""Log ratios at the map's edges, of which the smallest is taken that holds nearly all pairs."""
LOWEST = (0.8, 0.5, 0.0, -1.0)
"""Cosines at its bottom, of which the highest is taken below which hardly any pair lies."""
NEARLY_ALL = 0.98
BINS = (64, 40)
"""Of the map's background, across and down."""


@dataclass(frozen=True, slots=True)
class MapScale:
    """Where numbers stand in the map; what lies beyond stands at the edge."""

    edge: float
    lowest: float

    @classmethod
    def of(cls, log_ratios: Floats, cosines: Floats) -> MapScale:
        """The closest look that shows nearly all pairs."""
        ratios, known = np.abs(log_ratios[np.isfinite(log_ratios)]), cosines[np.isfinite(cosines)]
        edge = next(
            (edge for edge in RANGES if np.count_nonzero(ratios <= edge) >= NEARLY_ALL * len(ratios)), RANGES[-1]
        )
        lowest = next((low for low in LOWEST if np.count_nonzero(known >= low) >= NEARLY_ALL * len(known)), LOWEST[-1])
        return cls(edge, lowest)

    def across(self, log_ratio: float) -> float:
        """Of a log ratio, in the map's units."""
        inside = min(self.edge, max(-self.edge, log_ratio))
        return MARGIN + (inside + self.edge) / (2 * self.edge) * (MAP_WIDTH - 2 * MARGIN)

    def down(self, cosine: float) -> float:
        """Of a cosine; 1 is at the top."""
        share = (1 - max(self.lowest, cosine)) / (1 - self.lowest)
        return MARGIN / 2 + share * (MAP_HEIGHT - 1.5 * MARGIN)


def movement_map(
    scale: MapScale, log_ratios: Floats, cosines: Floats, movements: Sequence[str], shown: Sequence[int]
) -> Markup:
    """Every pair by the log of its coefficient-weighted norm ratio and its cosine, with the regions of movement.

    A pair separates where cosine < exp(-|log ratio|); above, both rise on the right and fall on the left.

    Args:
        log_ratios, cosines, movements: of all pairs, [pairs].
        shown: places of the pairs that are drawn as points; where they are not all, all of them colour the background.
    """
    across, down = scale.across, scale.down
    top, bottom, left, right = down(1), down(-1), across(-scale.edge), across(scale.edge)
    curve = [scale.edge * x / 40 for x in range(-40, 41)]
    falls = " ".join(f"{across(x):.1f},{down(math.exp(x)):.1f}" for x in curve if x <= 0)
    rises = " ".join(f"{across(x):.1f},{down(math.exp(-x)):.1f}" for x in curve if x >= 0)
    parts = [
        f'<svg id="map" viewBox="0 0 {MAP_WIDTH} {MAP_HEIGHT}" role="img" aria-labelledby="map-title map-words">',
        '<title id="map-title">Map of all pairs</title>',
        '<desc id="map-words">Across: log of the weighted norm ratio, chosen longer to the right. '
        "Up: cosine of the two gradients. Above the curve both log-probs move the same way.</desc>",
        f'<rect class="region separates" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>',
        f'<polygon class="region both_fall" points="{left:.1f},{top:.1f} {falls}"/>',
        f'<polygon class="region both_rise" points="{rises} {right:.1f},{top:.1f}"/>',
        _background(scale, log_ratios, cosines) if len(shown) < len(cosines) else "",
        _axis(scale),
        '<g id="points">',
    ]
    for place in shown:
        x, y = float(log_ratios[place]), float(cosines[place])
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f'<circle class="{movements[place]}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.4"/>')
        else:
            parts.append('<circle class="none" r="0"/>')
    return Markup("".join([*parts, "</g></svg>"]))


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


def _axis(scale: MapScale) -> str:
    across, down, edge = scale.across, scale.down, scale.edge
    left, right, middle, bottom = across(-edge), across(edge), across(0), down(-1)
    ticks = [
        f'<text class="tick" x="{across(x):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{math.exp(x):.2g}</text>'
        for x in (-edge, -edge / 2, 0, edge / 2, edge)
    ]
    ticks += [
        f'<text class="tick" x="{left - 6:.1f}" y="{down(y) + 4:.1f}" text-anchor="end">{y:+.2f}</text>'
        for y in np.linspace(scale.lowest, 1.0, 5)
    ]
    words = [
        (left + 10, down(1) + 24, "start", "both fall"),
        (right - 10, down(1) + 24, "end", "both rise"),
        (middle, bottom - 24, "middle", "separates"),
    ]
    labels = [
        f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{word}</text>'
        for x, y, anchor, word in words
    ]
    axis = (
        f'<text class="tick" x="{middle:.1f}" y="{MAP_HEIGHT - 4}" text-anchor="middle">'
        "weighted norm ratio, chosen over rejected</text>"
        f'<line class="axis" x1="{middle}" x2="{middle}" y1="{down(1)}" y2="{bottom}"/>'
    )
    return axis + "".join(ticks) + "".join(labels)


def histogram_bars(edges: Sequence[float], counts: Sequence[int], title: str) -> Markup:
    """A histogram with its range below."""
    width, height, base = 300, 110, 84
    top = max(counts, default=0) or 1
    step = (width - 20) / max(1, len(counts))
    bars = "".join(
        f'<rect class="bar" x="{10 + place * step:.1f}" y="{base - 70 * count / top:.1f}" '
        f'width="{max(1.0, step - 1):.1f}" height="{70 * count / top:.1f}"><title>{low:.3g} to {high:.3g}: '
        f"{count:,} pairs</title></rect>"
        for place, (count, low, high) in enumerate(zip(counts, edges, edges[1:], strict=False))
    )
    low, high = (f"{edge:+.3g}" for edge in (edges[0], edges[-1]))
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Histogram of {title}">{bars}'
        f'<line class="axis" x1="10" x2="{width - 10}" y1="{base}" y2="{base}"/>'
        f'<text class="tick" x="10" y="{base + 16}">{low}</text>'
        f'<text class="tick" x="{width - 10}" y="{base + 16}" text-anchor="end">{high}</text></svg>'
    )


def share_bars(rows: Sequence[tuple[str, Sequence[float]]], movements: Sequence[str], title: str) -> Markup:
    """One bar a row, divided by movement; the rows' names stand left of them."""
    height = 22 * len(rows) + 6
    parts = [f'<svg viewBox="0 0 420 {height}" role="img" aria-label="{title}">']
    for place, (name, shares) in enumerate(rows):
        y, x = 4 + 22 * place, 130.0
        parts.append(f'<text class="tick" x="124" y="{y + 13}" text-anchor="end">{name}</text>')
        for movement, share in zip(movements, shares, strict=True):
            if share > 0:
                parts.append(
                    f'<rect class="{movement}" x="{x:.1f}" y="{y}" width="{280 * share:.1f}" height="17">'
                    f"<title>{movement}: {share:.1%}</title></rect>"
                )
            x += 280 * share
    return Markup("".join([*parts, "</svg>"]))


HEAT_CELLS = 150
"""Of a heat map at most, each way; more tokens are averaged over."""


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


def heat_map(cosines: Any, num_chosen: int) -> Markup:
    """Cosines of the tokens' gradients, chosen down and rejected across, orange above 0 and blue below."""
    block = _binned(np.asarray(cosines, dtype=np.float64)[:num_chosen, num_chosen:])
    with_titles = block.shape == (num_chosen, len(cosines) - num_chosen)
    size = max(4, min(16, 900 // max(1, *block.shape)))
    parts = [
        f'<svg class="heat" width="{size * block.shape[1]}" height="{size * block.shape[0]}" role="img" '
        'aria-label="Cosines of the gradients of the tokens of both answers">'
    ]
    for (row, column), cosine in np.ndenumerate(block):
        if math.isfinite(cosine):
            kind = "positive" if cosine > 0 else "negative"
            parts.append(
                f'<rect class="{kind}" x="{size * column}" y="{size * row}" width="{size}" height="{size}" '
                f'opacity="{abs(cosine):.2f}">'
                + (f"<title>chosen {row}, rejected {column}: {cosine:+.3f}</title>" if with_titles else "")
                + "</rect>"
            )
    return Markup("".join([*parts, "</svg>"]))
