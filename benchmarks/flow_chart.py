"""Speed against error, one marker a flow method, as an SVG file in the colours of the report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from twostream.report.charts import TOKENS, standalone
from twostream.report.text import width_em

_WIDTH, _HEIGHT = 680, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 672, 14, 372
_SIZE, _MARKER = 12, 5  # pixels: height of the letters, half the side of a marker


_Place = tuple[float, float]
_Box = tuple[float, float, float, float]  # left, top, right, bottom


class Point(NamedTuple):
    """A method at its milliseconds a pair and its mean EPE in pixels; a family has one colour and a line through it."""

    name: str
    family: str
    ms: float
    epe: float


def speed_against_error(points: Sequence[Point], *, title: str) -> str:
    """The chart: time a pair on a logarithmic axis, EPE from zero; every marker has its name beside it."""
    low, high = min(p.ms for p in points) / 1.6, max(p.ms for p in points) * 3
    top, step = _round_scale(max(p.epe for p in points) * 1.08)

    def x(ms: float) -> float:
        return _LEFT + math.log(ms / low) / math.log(high / low) * (_RIGHT - _LEFT)

    def y(epe: float) -> float:
        return _BOTTOM - epe / top * (_BOTTOM - _TOP)

    body = []
    for tick in (step * k for k in range(round(top / step) + 1)):
        body.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{_RIGHT}"/>')
        body.append(f'<text class="muted end" x="{_LEFT - 8}" y="{y(tick):.1f}" dy=".35em">{tick:g}</text>')
    for tick in _log_ticks(low, high):
        body.append(f'<path class="grid" d="M{x(tick):.1f} {_TOP}V{_BOTTOM}"/>')
        body.append(f'<text class="muted middle" x="{x(tick):.1f}" y="{_BOTTOM + 17}">{tick:g}</text>')
    middle = (_LEFT + _RIGHT) / 2
    body.append(f'<text class="muted middle" x="{middle}" y="{_HEIGHT - 8}">milliseconds a pair</text>')
    turn = f"translate(14 {(_TOP + _BOTTOM) / 2}) rotate(-90)"
    body.append(f'<text class="muted middle" transform="{turn}">mean EPE, pixels</text>')

    families = list(dict.fromkeys(p.family for p in points))
    tokens = {family: TOKENS[place % len(TOKENS)] for place, family in enumerate(families)}
    for family in families:
        members = sorted((p for p in points if p.family == family), key=lambda p: p.ms)
        path = "L".join(f"{x(p.ms):.1f} {y(p.epe):.1f}" for p in members)
        body.append(f'<path class="s-{tokens[family]}" stroke-width="1.5" stroke-opacity=".5" d="M{path}"/>')
    places = [(x(p.ms), y(p.epe)) for p in points]
    for point, (px, py), (left, label_top, right, _) in zip(points, places, _label_boxes(points, places), strict=True):
        body.append(f'<circle class="f-{tokens[point.family]}" cx="{px:.1f}" cy="{py:.1f}" r="{_MARKER}"/>')
        # Anchored on the marker's side: the width of a name is only an estimate.
        at, anchor = (left, "") if left > px else (right, " end") if right < px else ((left + right) / 2, " middle")
        text = f'class="halo{anchor}" x="{at:.1f}" y="{label_top + 0.8 * _SIZE:.1f}"'
        body.append(f"<text {text}>{escape(point.name)}</text>")
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return standalone(Markup(f'{head} role="img" aria-label="{escape(title)}">{"".join(body)}</svg>'))


def _label_boxes(points: Sequence[Point], places: Sequence[_Place]) -> list[_Box]:
    """Where each name stands: of the places round its marker, nearest first, the one that hides least."""
    taken = [(px - _MARKER, py - _MARKER, px + _MARKER, py + _MARKER) for px, py in places]
    found = []
    for point, (px, py) in zip(points, places, strict=True):
        wide = width_em(point.name) * _SIZE
        boxes = []
        for gap in (_MARKER + 4, _MARKER + 10, _MARKER + 18, _MARKER + 28):
            sideways = (px + gap, px - gap - wide)
            boxes += [(left, py - _SIZE / 2) for left in sideways]
            boxes += [(left, top) for top in (py - gap - _SIZE, py + gap) for left in (px - wide / 2, *sideways)]
        spans = [(left, top, left + wide, top + _SIZE) for left, top in boxes]
        others = [place for place in places if place != (px, py)]
        best = min(spans, key=lambda box: _unfitness(box, (px, py), others, taken))  # min keeps the first of equals
        taken.append(best)
        found.append(best)
    return found


def _unfitness(box: _Box, own: _Place, others: Sequence[_Place], taken: Sequence[_Box]) -> float:
    """Area of `box` that lies on others or outside the frame; more where it stands nearer to another's marker."""
    left, top, right, bottom = box
    shared = sum(
        max(0.0, min(right, r) - max(left, x)) * max(0.0, min(bottom, b) - max(top, y)) for x, y, r, b in taken
    )
    inside = max(0.0, min(right, _RIGHT) - max(left, _LEFT)) * max(0.0, min(bottom, _BOTTOM) - max(top, _TOP))

    def distance(place: _Place) -> float:
        x, y = place
        return math.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom))

    misread = any(distance(place) < 1.5 * distance(own) for place in others)
    return shared + (right - left) * (bottom - top) - inside + (_SIZE**2 if misread else 0)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values between `low` and `high`: powers of ten, with 2 and 5 between them where there is room."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if high / low > 1e5 else (1, 2, 5)
    ticks = [factor * 10.0**exponent for exponent, factor in itertools.product(exponents, factors)]
    return [tick for tick in ticks if low <= tick <= high]


def _round_scale(high: float) -> tuple[float, float]:
    """A round end of the axis at or above `high`, and the step of its ticks."""
    rough = max(high, 1e-3) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return math.ceil(high / step - 1e-9) * step or step, step
