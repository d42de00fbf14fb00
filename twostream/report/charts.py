"""Charts as hand-made SVG: bars, intervals, lines, dots and a heat map, in the colours of the page they stand in.

Every function returns markup that is safe to put into a page: labels are escaped here. Colours are CSS variables and
series are told apart by a token (:data:`TOKENS`), never by colour alone: each token has its own marker and dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from twostream.report.text import shorten, visible, width_em

# Okabe & Ito's palette, safe for colour-blind readers, shaded for contrast on white and on near-black.
_LIGHT = {
    "ink": "#1c2024",
    "muted": "#626a73",
    "line": "#dfe3e8",
    "paper": "#ffffff",
    "rgb": "#0072b2",
    "flow": "#d55e00",
    "fusion": "#008a66",
    "extra1": "#a8508a",
    "extra2": "#6d7680",
    "extra3": "#a67c00",
    "extra4": "#3a92c8",
    "bad": "#b3261e",
}
_DARK = {
    "ink": "#e7e9ec",
    "muted": "#9aa3ad",
    "line": "#333a42",
    "paper": "#14171a",
    "rgb": "#56b4e9",
    "flow": "#f08a3c",
    "fusion": "#35c79c",
    "extra1": "#d98fc0",
    "extra2": "#98a2ad",
    "extra3": "#e0b93f",
    "extra4": "#8cc8ee",
    "bad": "#f2857c",
}
TOKENS = ("rgb", "flow", "fusion", "extra1", "extra2", "extra3", "extra4")

_WIDTH = 500  # pixels; narrow enough that a phone shows it whole with its text still legible
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_DASHES = ("", "9 3", "2 3", "9 3 2 3", "5 2", "14 4")  # of the full lines of one chart; the first is solid


def _variables(colours: dict[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{value};" for name, value in colours.items()) + "}"


THEME = _variables(_LIGHT) + "@media screen and (prefers-color-scheme:dark){" + _variables(_DARK) + "}"
STYLE = (
    f".chart{{font-family:{_FONT};font-size:12px}}.chart text{{fill:var(--ink);font-variant-numeric:tabular-nums}}"
    ".chart .muted{fill:var(--muted)}.chart .strong{font-weight:600}.chart .end{text-anchor:end}"
    ".chart .middle{text-anchor:middle}.chart .grid{stroke:var(--line);stroke-width:1}"
    ".chart .rule{stroke:var(--muted);stroke-width:1;stroke-dasharray:3 3}.chart .on{fill:var(--paper)}"
    ".chart .halo{stroke:var(--paper);stroke-width:3px;paint-order:stroke}"
    + "".join(
        f".chart .f-{t}{{fill:var(--{t})}}.chart .s-{t}{{stroke:var(--{t});fill:none}}"
        for t in (*TOKENS, "bad", "line")
    )
)


class Bar(NamedTuple):
    """A row of :func:`bars`: parts stand end to end, each a value and its token; `text` follows the last."""

    label: str
    parts: Sequence[tuple[float, str]]
    text: str


class Interval(NamedTuple):
    """A row of :func:`intervals`, in fractions."""

    label: str
    token: str
    value: float
    low: float
    high: float


class Line(NamedTuple):
    """A series of :func:`lines`. Points whose y is not finite are left out; `mark` is the index of one to stress."""

    label: str
    token: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False
    mark: int | None = None


def standalone(svg: Markup) -> str:
    """The chart as a file of its own, with its colours inside."""
    head, rest = str(svg).split(">", 1)
    style = f"<style>{THEME}{STYLE}svg{{background:var(--paper)}}</style>"
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def bars(rows: Sequence[Bar], *, label: str, legend: Sequence[tuple[str, str]] = ()) -> Markup:
    """Horizontal bars from zero, one a row, in the order given. `legend` pairs tokens with words."""
    # The band for labels is as wide as the longest label, but never takes the space of the bars.
    band = min(max((width_em(visible(row.label)) for row in rows), default=0) * 12 + 2, 170)
    tail = max((width_em(row.text) for row in rows), default=0) * 12
    height, top = (22 if len(rows) <= 40 else 17), (26 if legend else 4)
    span = max(_WIDTH - band - tail - 20, 80)
    largest = max((sum(value for value, _ in row.parts) for row in rows), default=0) or 1
    body = [_legend(legend, 0, 14)] if legend else []
    for number, row in enumerate(rows):
        y = top + number * height
        body.append(_label(row.label, band, y + height / 2, band / 12))
        x = band + 10.0
        for value, token in row.parts:
            if value > 0:
                long = value / largest * span
                body.append(
                    f'<rect class="f-{token}" x="{_n(x)}" y="{y + 3}" width="{_n(long)}" height="{height - 6}"/>'
                )
                x += long
        body.append(f'<text class="muted" x="{_n(x + 6)}" y="{_n(y + height / 2)}" dy=".35em">{_t(row.text)}</text>')
    return _svg(_WIDTH, top + len(rows) * height + 4, body, label)


def intervals(rows: Sequence[Interval], *, label: str, chance: float | None = None) -> Markup:
    """Accuracies as dots with their intervals on one scale of per cent; `chance` is a dashed line."""
    band = min(max(width_em(visible(row.label)) for row in rows) * 13 + 8, 170)
    width, height, top, tail = _WIDTH, 30, 22, 56
    low, high, ticks = _scale([0.0, *(row.high for row in rows)], top_at=1.0)
    scale = _Axis(low, high, band + 12, width - tail)
    bottom = top + len(rows) * height
    body = [_vertical(scale(tick), top, bottom, f"{100 * tick:.0f} %") for tick in ticks]
    if chance is not None:
        body.append(f'<path class="rule" d="M{_n(scale(chance))} {top - 6}V{bottom}"/>')
        body.append(f'<text class="muted middle" x="{_n(scale(chance))}" y="11">chance</text>')
    for number, row in enumerate(rows):
        y = top + number * height + height / 2
        body.append(_label(row.label, band, y, band / 12, strong=row.token == "fusion"))
        start, end, at = scale(row.low), scale(row.high), scale(row.value)
        body.append(f'<path class="s-{row.token}" stroke-width="2" d="M{_n(start)} {y}H{_n(end)}"/>')
        body.append(
            f'<path class="s-{row.token}" stroke-width="2" d="M{_n(start)} {y - 4}v8M{_n(end)} {y - 4}v8"/>'
            f"{_marker(row.token, at, y, 6)}"
        )
        strong = " strong" if row.token == "fusion" else ""
        body.append(f'<text class="end{strong}" x="{width}" y="{y}" dy=".35em">{100 * row.value:.1f} %</text>')
    return _svg(width, bottom + 24, body, label)


def lines(series: Sequence[Line], *, label: str, x_label: str, per_cent: bool = False) -> Markup:
    """Curves over one x axis. `per_cent`: y are fractions, drawn on a scale from 0 that ends at 1 at most."""
    width, height, left, right, top, bottom = 440, 240, 46, 12, 30, 200
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for y in one.y if math.isfinite(y)]
    low_x, high_x, ticks_x = _scale(xs, zero=False, whole=all(float(x).is_integer() for x in xs))
    if per_cent:
        low_y, high_y, ticks_y = _scale([0.0, *ys], top_at=1.0)
    else:
        low_y, high_y, ticks_y = _scale(ys, zero=bool(ys) and min(ys) >= 0 and min(ys) < 0.5 * max(ys))
    horizontal, vertical = _Axis(low_x, high_x, left, width - right), _Axis(low_y, high_y, bottom, top)
    names = {one.label: one for one in series}
    full = [name for name, one in names.items() if not one.faint]
    dashes = {name: _DASHES[place % len(_DASHES)] for place, name in enumerate(full)}
    body = [_line_legend(list(names.values()), left, 12, dashes)] if len(names) > 1 else []
    for tick in ticks_y:
        words = f"{100 * tick:.0f} %" if per_cent else f"{tick:g}"
        y = vertical(tick)
        body.append(f'<path class="grid" d="M{left} {_n(y)}H{width - right}"/>')
        body.append(f'<text class="muted end" x="{left - 6}" y="{_n(y)}" dy=".35em">{words}</text>')
    for tick in ticks_x:
        body.append(f'<text class="muted middle" x="{_n(horizontal(tick))}" y="{bottom + 17}">{tick:g}</text>')
    middle = (left + width - right) / 2
    body.append(f'<text class="muted middle" x="{_n(middle)}" y="{height - 6}">{_t(x_label)}</text>')
    for one in series:
        points = [(horizontal(x), vertical(y)) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
        if len(points) == 1:
            body.append(_marker(one.token, *points[0], 3))
        elif points:
            body.append(f'<path {_stroke(one, dashes)} d="M{"L".join(f"{_n(x)} {_n(y)}" for x, y in points)}"/>')
        if one.mark is not None and math.isfinite(one.y[one.mark]):
            body.append(_marker(one.token, horizontal(one.x[one.mark]), vertical(one.y[one.mark]), 5))
    return _svg(width, height, body, label)


def dots(rows: Sequence[tuple[str, Sequence[float]]], *, label: str, legend: Sequence[tuple[str, str]]) -> Markup:
    """Accuracies (fractions, NaN for none) of several systems a row, joined by a line from the least to the greatest.

    Args:
        rows: label and one value for each entry of `legend`.
        legend: token and words of each system; the last is drawn on top.
    """
    band = min(max((width_em(visible(name)) for name, _ in rows), default=0) * 12 + 8, 170)
    width, height, top = _WIDTH, 20, 48
    scale = _Axis(0.0, 1.0, band + 16, width - 24)
    bottom = top + len(rows) * height
    body = [_legend(legend, 0, 14, marker=True)]
    body += [_vertical(scale(tick / 4), top, bottom, f"{25 * tick} %") for tick in range(5)]
    body += [  # the scale once more at the head, where a long chart is entered
        f'<text class="muted middle" x="{_n(scale(tick / 4))}" y="{top - 8}">{25 * tick} %</text>' for tick in range(5)
    ]
    for number, (name, values) in enumerate(rows):
        y = top + number * height + height / 2
        body.append(_label(name, band, y, band / 12))
        known = [value for value in values if math.isfinite(value)]
        if known:
            body.append(
                f'<path class="s-line" stroke-width="3" d="M{_n(scale(min(known)))} {y}H{_n(scale(max(known)))}"/>'
            )
        else:
            body.append(f'<text class="muted" x="{_n(scale(0) + 6)}" y="{y}" dy=".35em">no test clips</text>')
        for (token, words), value in zip(legend, values, strict=True):
            if math.isfinite(value):
                title = f"{visible(name)} · {words}: {100 * value:.1f} %"
                body.append(_marker(token, scale(value), y, 5 if token == "fusion" else 4.5, title))
    return _svg(width, bottom + 24, body, label)


def heatmap(counts: Sequence[Sequence[int]], names: Sequence[str], *, label: str) -> Markup:
    """A confusion matrix: rows are true classes, columns predictions, shade is the share of the row.

    Cells of zero are left out; numbers stand in the cells while there is room for them.
    """
    cell = min(max(640 // max(len(names), 1), 10), 46)
    size = min(12.0, cell * 0.85)
    longest = min(max(width_em(visible(name)) for name in names), 14.0)
    band = longest * size + 8
    slanted = cell >= 26
    head = band * (0.72 if slanted else 1.0) + 8
    left, top = band + 22, head + 18
    side = cell * len(names)
    right = band * 0.72 if slanted else 8
    width, height = left + side + right, top + side + 6
    body = [f'<text class="muted middle" x="{_n(left + side / 2)}" y="11">predicted</text>']
    middle = _n(top + side / 2)
    body.append(f'<text class="muted middle" transform="translate(11 {middle}) rotate(-90)">actual</text>')
    body.append(f'<rect class="s-line" x="{_n(left)}" y="{_n(top)}" width="{side}" height="{side}"/>')
    for place, name in enumerate(names):
        at = place * cell + cell / 2
        words = f"<title>{_t(name)}</title>{_t(shorten(visible(name), longest))}"
        style = f'font-size="{_n(size)}"'
        body.append(f'<text class="end" {style} x="{_n(left - 6)}" y="{_n(top + at)}" dy=".35em">{words}</text>')
        turn = -45 if slanted else -90
        place_at = f'transform="translate({_n(left + at)} {_n(top - 6)}) rotate({turn})"'
        body.append(f'<text {style} dy=".35em" {place_at}>{words}</text>')
    for row, line in enumerate(counts):
        total = sum(line)
        for column, count in enumerate(line):
            if count:
                body.append(_cell(row, column, count, total, names, left, top, cell))
    return _svg(width, height, body, label)


def _cell(
    row: int, column: int, count: int, total: int, names: Sequence[str], left: float, top: float, cell: int
) -> str:
    x, y, share = left + column * cell, top + row * cell, count / total
    token = "fusion" if row == column else "bad"
    said = f"{_t(names[row])} → {_t(names[column])}: {count} of {total}"
    gap = 1 if cell >= 14 else 0
    # Never fainter than a tenth: one clip of a hundred is a mistake that should be seen.
    square = (
        f'<rect class="f-{token}" fill-opacity="{0.1 + 0.9 * share:.2f}" x="{_n(x + gap)}" y="{_n(y + gap)}"'
        f' width="{cell - 2 * gap}" height="{cell - 2 * gap}"><title>{said}</title></rect>'
    )
    if cell < 26:
        return square
    side = " on" if share > 0.55 else ""
    return square + (
        f'<text class="middle{side}" pointer-events="none" x="{_n(x + cell / 2)}" y="{_n(y + cell / 2)}" '
        f'dy=".35em">{count}</text>'
    )


class _Axis(NamedTuple):
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1) * (self.end - self.start)


def _scale(
    values: Sequence[float], *, zero: bool = True, top_at: float | None = None, whole: bool = False
) -> tuple[float, float, list[float]]:
    """Least and greatest value of an axis and its three to seven round ticks; at most up to `top_at`."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if zero:
        low = min(low, 0.0)
    if high <= low:
        low, high = (low, low + 1) if whole or zero else (low - 0.5, low + 0.5)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, round(step))
        first = math.ceil(low / step) * step
        return low, high, [first + k * step for k in range(int((high - first) / step + 1e-9) + 1)]
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if top_at is not None:
        high = min(high, top_at)
    count = int((high - low) / step + 1e-9)
    return low, high, [round(low + k * step, 12) for k in range(count + 1)]


def _vertical(x: float, top: float, bottom: float, words: str) -> str:
    return (
        f'<path class="grid" d="M{_n(x)} {_n(top)}V{_n(bottom)}"/>'
        f'<text class="muted middle" x="{_n(x)}" y="{_n(bottom + 16)}">{words}</text>'
    )


def _label(name: str, x: float, y: float, em: float, *, strong: bool = False) -> str:
    kind = "end strong" if strong else "end"
    return (
        f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}" dy=".35em">'
        f"<title>{_t(name)}</title>{_t(shorten(visible(name), em + 0.01))}</text>"
    )


def _legend(entries: Sequence[tuple[str, str]], x: float, y: float, *, marker: bool = False) -> str:
    parts = []
    for token, words in entries:
        if marker:
            parts.append(_marker(token, x + 6, y - 4, 5))
        else:
            parts.append(f'<rect class="f-{token}" x="{_n(x)}" y="{_n(y - 9)}" width="11" height="11"/>')
        parts.append(f'<text x="{_n(x + 17)}" y="{_n(y)}">{_t(words)}</text>')
        x += 17 + width_em(visible(words)) * 12 + 16
    return "".join(parts)


def _line_legend(entries: Sequence[Line], x: float, y: float, dashes: dict[str, str]) -> str:
    parts = []
    for one in entries:
        parts.append(f'<path {_stroke(one, dashes)} d="M{_n(x)} {_n(y - 4)}h18"/>')
        parts.append(f'<text x="{_n(x + 24)}" y="{_n(y)}">{_t(one.label)}</text>')
        x += 24 + width_em(visible(one.label)) * 12 + 14
    return "".join(parts)


def _stroke(one: Line, dashes: dict[str, str]) -> str:
    dash = "5 4" if one.faint else dashes[one.label]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    faint = ' stroke-opacity=".65" stroke-width="1.5"' if one.faint else ' stroke-width="2"'
    return f'class="s-{one.token}" stroke-linejoin="round"{faint}{dashed}'


def _marker(token: str, x: float, y: float, radius: float, title: str = "") -> str:
    """Appearance is round, motion a triangle, fusion a diamond, further streams open shapes."""
    r = radius
    shapes = {
        "rgb": f"M{_n(x - r)} {_n(y)}a{_n(r)} {_n(r)} 0 1 0 {_n(2 * r)} 0a{_n(r)} {_n(r)} 0 1 0 {_n(-2 * r)} 0z",
        "flow": f"M{_n(x)} {_n(y - r * 1.15)}l{_n(r * 1.15)} {_n(r * 2)}h{_n(-r * 2.3)}z",
        "fusion": f"M{_n(x)} {_n(y - r * 1.35)}l{_n(r * 1.35)} {_n(r * 1.35)}l{_n(-r * 1.35)} {_n(r * 1.35)}"
        f"l{_n(-r * 1.35)} {_n(-r * 1.35)}z",
    }
    square = f"M{_n(x - r * 0.85)} {_n(y - r * 0.85)}h{_n(r * 1.7)}v{_n(r * 1.7)}h{_n(-r * 1.7)}z"
    kind = f'class="f-{token}"' if token in shapes else f'class="s-{token}" stroke-width="1.8"'
    inside = f"<title>{_t(title)}</title>" if title else ""
    return f'<path {kind} d="{shapes.get(token, square)}">{inside}</path>'


def _svg(width: float, height: float, body: Sequence[str], label: str) -> Markup:
    size = f'viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
    return Markup(f'<svg class="chart" {size} role="img" aria-label="{_t(label)}">{"".join(body)}</svg>')


def _t(text: str) -> str:
    return str(escape(visible(text)))


def _n(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{round(value, 1):g}"
