"""Curves over the steps of a training, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    label: str
    """One of our own words, shown at its end."""
    style: str
    """A class of the style sheet: `chosen`, `rejected`, `plain`, and `faint` for held-out pairs."""
    points: Sequence[tuple[float, float]]
    """Step and value, in order."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values that charts beside each other share."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], *, zero: bool) -> Range:
        """The range of some values with a little room, and with zero if asked for."""
        known = [value for value in values if math.isfinite(value)] + [0.0] * (zero or not values)
        low, high = min(known), max(known)
        room = 0.05 * (high - low) or 0.5
        return cls(low if zero and low == 0.0 else low - room, high if zero and high == 0.0 else high + room)


CHART_WIDTH, CHART_HEIGHT = 300, 190
CHART_LEFT, CHART_RIGHT, CHART_TOP, CHART_BOTTOM = 54, 88, 10, 30


def line_chart(lines: Sequence[Line], values: Range, last_step: int, title: str) -> Markup:
    """Curves over the steps of a training, each with its name at its end.

    Args:
        title: what is drawn, in our own words.
    """
    right, bottom = CHART_WIDTH - CHART_RIGHT, CHART_HEIGHT - CHART_BOTTOM

    def across(step: float) -> float:
        return CHART_LEFT + step / max(1, last_step) * (right - CHART_LEFT)

    def down(value: float) -> float:
        return CHART_TOP + (values.high - value) / ((values.high - values.low) or 1.0) * (bottom - CHART_TOP)

    parts = [f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{title}">']
    ticks = list(dict.fromkeys(tick for tick in (values.low, 0.0, values.high) if values.low <= tick <= values.high))
    for tick, words in zip(ticks, tick_texts(ticks), strict=True):
        kind = "zero" if tick == 0.0 else "grid"
        y = down(tick)
        parts.append(f'<line class="{kind}" x1="{CHART_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{CHART_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{words}</text>')
    for step in (0, last_step):
        parts.append(
            f'<text class="tick" x="{across(step):.1f}" y="{bottom + 17}" text-anchor="middle">{step:,}</text>'
        )
    parts.append(
        f'<text class="tick" x="{across(last_step / 2):.1f}" y="{bottom + 17}" text-anchor="middle">step</text>'
    )
    drawn = [line for line in lines if line.points]
    for line in drawn:
        places = [(across(step), down(value)) for step, value in line.points]
        if len(places) == 1:  # a dash, because a path of one point is not drawn
            ((x, y),) = places
            places = [(x - SINGLE_POINT, y), (x + SINGLE_POINT, y)]
        path = "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<path class="curve {line.style}" d="M{path}"/>')
    named = [line for line in drawn if line.label]
    ends = _apart([down(line.points[-1][1]) for line in named])
    for line, end in zip(named, ends, strict=True):
        parts.append(f'<text class="{line.style}" x="{right + 4}" y="{end + 4:.1f}">{line.label}</text>')
    return Markup("".join([*parts, "</svg>"]))


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Texts of ticks: whole numbers from 1,000, else three significant digits, or as many more as tell them apart."""
    if max(map(abs, ticks), default=0.0) >= 1000.0:
        return [f"{tick:,.0f}" for tick in ticks]
    texts = [f"{tick:.3g}" for tick in ticks]
    for digits in range(4, MOST_DIGITS + 1):
        if len(set(texts)) == len(texts):
            break
        texts = [f"{tick:.{digits}g}" for tick in ticks]
    return texts


MOST_DIGITS = 6
SINGLE_POINT = 3
"""Half of the width of a line that has one point."""
LABEL_HEIGHT = 13


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights of labels, moved down so that no two overlap."""
    placed: dict[int, float] = {}
    lowest = -math.inf
    for place in sorted(range(len(heights)), key=lambda place: heights[place]):
        lowest = placed[place] = max(heights[place], lowest + LABEL_HEIGHT)
    return [placed[place] for place in range(len(heights))]
