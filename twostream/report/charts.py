"""Charts as hand-made SVG: bars, intervals, lines, dots and a heat map, in the colours of the page they stand in.

Every function returns markup that is safe to put into a page: labels are escaped here. Colours are CSS variables and
series are told apart by a token (:data:`TOKENS`), never by colour alone: each token has its own marker and dash.

A chart is whole without a script. What one may build on: `.hit` areas, one a row or an x, whose <title> tells the
values; `data-series` on what belongs to a series and on its entry in the legend, `.key`; and in a heat map `data-at`
(row and column) on cells, `data-row` and `data-column` on labels, `data-grid` (left, top, cell in pixels) on the SVG.
Vega would draw the same from 0.8 MB of script that has to be let evaluate code, and nothing at all without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

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

MOST_ROWS = 36  # of one chart: as many as a printed page holds; longer lists are drawn as several charts

_WIDTH = 400  # pixels; narrow enough that a phone shows it whole with its text still legible
_BAND = 140  # pixels at most for the labels on the left
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_DASHES = ("", "9 3", "2 3", "9 3 2 3", "5 2", "14 4")  # of the full lines of one chart; the first is solid


def _variables(colours: dict[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{value};" for name, value in colours.items()) + "}"


THEME = _variables(_LIGHT) + "@media screen and (prefers-color-scheme:dark){" + _variables(_DARK) + "}"
STYLE = (
    f".chart{{font-family:{_FONT};font-size:12px}}.chart text{{fill:var(--ink);font-variant-numeric:tabular-nums}}"
    ".chart .muted{fill:var(--muted)}.chart .strong{font-weight:600}.chart .end{text-anchor:end}"
    ".chart .middle{text-anchor:middle}.chart .axis{stroke:var(--muted);stroke-width:1}"
    ".chart .grid{stroke:var(--line);stroke-width:1}"
    ".chart .rule{stroke:var(--muted);stroke-width:1;stroke-dasharray:3 3}.chart .on{fill:var(--paper)}"
    ".chart .hit{fill:var(--ink);fill-opacity:0}.chart .hit:hover,.chart .hit.at{fill-opacity:.07}"
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
    """A series of :func:`lines`. Points whose y is not finite are left out; `mark` is the index of one to stress.

    Lines of one label are one series; `detail` tells them apart.
    """

    label: str
    token: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False
    mark: int | None = None
    detail: str = ""


Row = TypeVar("Row")


def parted(rows: Sequence[Row], most: int = MOST_ROWS) -> list[Sequence[Row]]:
    """The rows in order, in as few parts of about even length as hold `most` each; one part where there are none."""
    parts = max(1, math.ceil(len(rows) / most))
    each = math.ceil(len(rows) / parts)
    return [rows[start : start + each] for start in range(0, max(len(rows), 1), max(each, 1))]


def standalone(svg: Markup) -> str:
    """The chart as a file of its own, with its colours inside."""
    head, rest = str(svg).split(">", 1)
    style = f"<style>{THEME}{STYLE}svg{{background:var(--paper)}}</style>"
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def bars(
    rows: Sequence[Bar], *, label: str, legend: Sequence[tuple[str, str]] = (), like: Sequence[Bar] | None = None
) -> Markup:
    """Horizontal bars from zero, one a row, in the order given. `legend` pairs tokens with words.

    `like` are the rows of all charts that this one is a part of: they share one scale.
    """
    like = rows if like is None else like
    # The band for labels is as wide as the longest label, but never takes the space of the bars.
    band = _band([row.label for row in like], 2)
    tail = max((width_em(row.text) for row in like), default=0) * 12
    keys, more = _legend(legend)
    height, top = (22 if len(like) <= MOST_ROWS else 18), (26 + more if legend else 4)
    span = max(_WIDTH - band - tail - 20, 80)
    largest = max((sum(value for value, _ in row.parts) for row in like), default=0) or 1
    words = dict(legend)
    body = [keys]
    for number, row in enumerate(rows):
        y = top + number * height
        body.append(_label(row.label, band, y + height / 2, band / 12))
        x = band + 10.0
        for value, token in row.parts:
            if value > 0:
                long = value / largest * span
                body.append(
                    f'<rect class="f-{token}" data-series="{token}" x="{_n(x)}" y="{y + 3}" width="{_n(long)}"'
                    f' height="{height - 6}"/>'
                )
                x += long
        body.append(f'<text class="muted" x="{_n(x + 6)}" y="{_n(y + height / 2)}" dy=".35em">{_t(row.text)}</text>')
        shares = "".join(f"; {words[token]} {value:g}" for value, token in row.parts if token in words)
        body.append(_hit(0, y, _WIDTH, height, f"{row.label}: {row.text}{shares}"))
    return _svg(_WIDTH, top + len(rows) * height + 4, body, label)


def diverging(
    rows: Sequence[tuple[str, int, int]],
    *,
    label: str,
    legend: Sequence[tuple[str, str]],
    like: Sequence[tuple[str, int, int]] | None = None,
) -> Markup:
    """Counts to the left and to the right of one line: rows of label, left and right; `legend` names both sides.

    `like` as in :func:`bars`.
    """
    like = rows if like is None else like
    band = _band([name for name, _, _ in like], 2)
    keys, more = _legend(legend)
    height, top = 22, 26 + more
    most_left, most_right = (max((row[side] for row in like), default=0) for side in (1, 2))
    room = _WIDTH - band - 10 - 2 * 26  # the numbers stand at the ends of the bars
    unit = room / max(most_left + most_right, 1)
    zero = band + 10 + 26 + most_left * unit
    (left, left_words), (right, right_words) = legend
    body = [keys]
    for number, (name, lost, won) in enumerate(rows):
        y = top + number * height
        middle = _n(y + height / 2)
        body.append(_label(name, band, y + height / 2, band / 12))
        start, end = zero - lost * unit, zero + won * unit
        for token, count, x, at, anchor in (
            (left, lost, start, start - 5, "muted end"),
            (right, won, zero, end + 5, "muted"),
        ):
            if count:
                body.append(
                    f'<rect class="f-{token}" data-series="{token}" x="{_n(x)}" y="{y + 3}" width="{_n(count * unit)}"'
                    f' height="{height - 6}"/>'
                )
                body.append(f'<text class="{anchor}" x="{_n(at)}" y="{middle}" dy=".35em">{count}</text>')
        body.append(_hit(0, y, _WIDTH, height, f"{name}: {left_words} {lost}, {right_words} {won}"))
    bottom = top + len(rows) * height
    body.append(f'<path class="axis" d="M{_n(zero)} {top}V{bottom}"/>')
    return _svg(_WIDTH, bottom + 4, body, label)


def intervals(rows: Sequence[Interval], *, label: str, chance: float | None = None) -> Markup:
    """Accuracies as dots with their intervals on one scale of per cent; `chance` is a dashed line."""
    band = _band([row.label for row in rows], 8, em=13)
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
        said = f"{row.label}: {100 * row.value:.1f} %, interval {100 * row.low:.1f} to {100 * row.high:.1f} %"
        body.append(_hit(0, y - height / 2, width, height, said))
    return _svg(width, bottom + 24, body, label)


def lines(series: Sequence[Line], *, label: str, x_label: str, per_cent: bool = False) -> Markup:
    """Curves over one x axis. `per_cent`: y are fractions, drawn on a scale from 0 that ends at 1 at most."""
    names = {one.label: one for one in series}
    full = [name for name, one in names.items() if not one.faint]
    dashes = {name: _DASHES[place % len(_DASHES)] for place, name in enumerate(full)}
    place = {name: number for number, name in enumerate(names)}
    width, left, right = _WIDTH, 46, 12
    keys, more = _line_legend(list(names.values()), left, dashes) if len(names) > 1 else ("", 0)
    height, top, bottom = 240 + more, 30 + more, 200 + more
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for y in one.y if math.isfinite(y)]
    low_x, high_x, ticks_x = _scale(xs, zero=False, whole=all(float(x).is_integer() for x in xs))
    if per_cent:
        low_y, high_y, ticks_y = _scale([0.0, *ys], top_at=1.0)
    else:
        low_y, high_y, ticks_y = _scale(ys, zero=bool(ys) and min(ys) >= 0 and min(ys) < 0.5 * max(ys))
    horizontal, vertical = _Axis(low_x, high_x, left, width - right), _Axis(low_y, high_y, bottom, top)
    body = [keys]
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
        series_ = str(place[one.label])
        if len(points) == 1:
            body.append(_marker(one.token, *points[0], 3, series_))
        elif points:
            path = f'd="M{"L".join(f"{_n(x)} {_n(y)}" for x, y in points)}"'
            body.append(f'<path {_stroke(one, dashes)} data-series="{series_}" {path}/>')
        if one.mark is not None and math.isfinite(one.y[one.mark]):
            body.append(_marker(one.token, horizontal(one.x[one.mark]), vertical(one.y[one.mark]), 5, series_))
    for x, start, end in _stretches(sorted(set(xs)), horizontal):
        said = [_point(one, x, per_cent) for one in series]
        body.append(_hit(start, top, end - start, bottom - top, f"{x_label} {x:g}: {', '.join(filter(None, said))}"))
    return _svg(width, height, body, label)


def _stretches(xs: Sequence[float], axis: _Axis) -> Iterator[tuple[float, float, float]]:
    """Each x with the pixels from which and up to which it is the nearest."""
    places = [axis(x) for x in xs]
    edges = [axis.start, *((a + b) / 2 for a, b in zip(places, places[1:], strict=False)), axis.end]
    return zip(xs, edges, edges[1:], strict=False)


def _point(one: Line, x: float, per_cent: bool) -> str:
    """What a line says at x in words; nothing where it has no value there."""
    y = dict(zip(one.x, one.y, strict=True)).get(x, math.nan)
    if not math.isfinite(y):
        return ""
    name = f"{one.label} ({one.detail})" if one.detail else one.label
    return f"{name} {100 * y:.1f} %" if per_cent else f"{name} {y:.3f}"


def dots(
    rows: Sequence[tuple[str, Sequence[float]]],
    *,
    label: str,
    legend: Sequence[tuple[str, str]],
    like: Sequence[tuple[str, Sequence[float]]] | None = None,
) -> Markup:
    """Accuracies (fractions, NaN for none) of several systems a row, joined by a line from the least to the greatest.

    Args:
        rows: label and one value for each entry of `legend`.
        legend: token and words of each system; the last is drawn on top.
        like: as in :func:`bars`.
    """
    band = _band([name for name, _ in (rows if like is None else like)], 8)
    keys, more = _legend(legend, marker=True)
    width, height, top = _WIDTH, 20, 48 + more
    scale = _Axis(0.0, 1.0, band + 16, width - 24)
    bottom = top + len(rows) * height
    body = [keys]
    body += [_vertical(scale(tick / 4), top, bottom, f"{25 * tick} %") for tick in range(5)]
    body += [  # the scale once more at the head, where a long chart is entered
        f'<text class="muted middle" x="{_n(scale(tick / 4))}" y="{top - 8}">{25 * tick} %</text>' for tick in range(5)
    ]
    for number, (name, values) in enumerate(rows):
        y = top + number * height + height / 2
        body.append(_label(name, band, y, band / 12))
        known = [value for value in values if math.isfinite(value)]
        said = "no test clips"
        if known:
            body.append(
                f'<path class="s-line" stroke-width="3" d="M{_n(scale(min(known)))} {y}H{_n(scale(max(known)))}"/>'
            )
        else:
            body.append(f'<text class="muted" x="{_n(scale(0) + 6)}" y="{y}" dy=".35em">{said}</text>')
        for (token, _), value, aside in zip(legend, values, _aside(values), strict=True):
            if math.isfinite(value):
                body.append(_marker(token, scale(value), y + aside, 5 if token == "fusion" else 4.5, token))
        if known:
            said = ", ".join(
                f"{words} {100 * value:.1f} %"
                for (_, words), value in zip(legend, values, strict=True)
                if math.isfinite(value)
            )
        body.append(_hit(0, y - height / 2, width, height, f"{name}: {said}"))
    return _svg(width, bottom + 24, body, label)


def _aside(values: Sequence[float]) -> list[float]:
    """By how many pixels each marker of a row is moved up or down, so that equal values do not hide each other."""
    return [(3.5 * (2 * values[:place].count(value) - values.count(value) + 1)) for place, value in enumerate(values)]


def heatmap(counts: Sequence[Sequence[int]], names: Sequence[str], *, label: str) -> Markup:
    """A confusion matrix: rows are true classes, columns predictions, shade is the share of the row.

    Cells of zero are left out; numbers stand in the cells while there is room for them.
    """
    cell = min(max(700 // max(len(names), 1), 10), 46)
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
        row = f'class="end" data-row="{place}" {style} x="{_n(left - 6)}" y="{_n(top + at)}"'
        body.append(f'<text {row} dy=".35em">{words}</text>')
        turn = -45 if slanted else -90
        column = f'data-column="{place}" {style} transform="translate({_n(left + at)} {_n(top - 6)}) rotate({turn})"'
        body.append(f'<text {column} dy=".35em">{words}</text>')
    for row, line in enumerate(counts):
        total = sum(line)
        for column, count in enumerate(line):
            if count:
                body.append(_cell(row, column, count, total, names, left, top, cell))
    return _svg(width, height, body, label, f' data-grid="{_n(left)} {_n(top)} {cell}"')


def _cell(
    row: int, column: int, count: int, total: int, names: Sequence[str], left: float, top: float, cell: int
) -> str:
    x, y, share = left + column * cell, top + row * cell, count / total
    token = "fusion" if row == column else "bad"
    said = f"{_t(names[row])} → {_t(names[column])}: {count} of {total}"
    gap = 1 if cell >= 14 else 0
    # Never fainter than a tenth: one clip of a hundred is a mistake that should be seen.
    square = (
        f'<rect class="f-{token}" data-at="{row} {column}" fill-opacity="{0.1 + 0.9 * share:.2f}"'
        f' x="{_n(x + gap)}" y="{_n(y + gap)}" width="{cell - 2 * gap}" height="{cell - 2 * gap}">'
        f"<title>{said}</title></rect>"
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


def _legend(entries: Sequence[tuple[str, str]], *, marker: bool = False) -> tuple[str, int]:
    """The legend at the head of a chart, and by how many pixels more than one line of it is high."""
    signs = []
    for token, words in entries:
        rect = f'<rect class="f-{token}" y="-9" width="11" height="11"/>'
        signs.append((token, _marker(token, 6, -4, 5) if marker else rect, words))
    return _keys(signs, 0, 17)


def _line_legend(entries: Sequence[Line], x: float, dashes: dict[str, str]) -> tuple[str, int]:
    signs = [
        (str(place), f'<path {_stroke(one, dashes)} d="M0 -4h18"/>', one.label) for place, one in enumerate(entries)
    ]
    return _keys(signs, x, 24)


def _keys(entries: Sequence[tuple[str, str, str]], left: float, indent: float) -> tuple[str, int]:
    """Entries (series, sign, words) side by side, in as many lines as they need."""
    parts, x, line = [], left, 0
    for series, sign, words in entries:
        width = indent + width_em(visible(words)) * 12
        if x > left and x + width > _WIDTH:
            x, line = left, line + 1
        parts.append(
            f'<g class="key" data-series="{series}" transform="translate({_n(x)} {14 + 18 * line})">{sign}'
            f'<text x="{_n(indent)}">{_t(shorten(visible(words), (_WIDTH - left - indent) / 12))}</text></g>'
        )
        x += width + 15
    return "".join(parts), 18 * line


def _hit(x: float, y: float, width: float, height: float, said: str) -> str:
    """An unseen area that tells its values where the pointer rests."""
    area = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
    return f'<rect class="hit" {area}><title>{_t(said)}</title></rect>'


def _band(names: Sequence[str], gap: float, em: float = 12) -> float:
    return min(max((width_em(visible(name)) for name in names), default=0) * em + gap, _BAND)


def _stroke(one: Line, dashes: dict[str, str]) -> str:
    dash = "5 4" if one.faint else dashes[one.label]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    faint = ' stroke-opacity=".65" stroke-width="1.5"' if one.faint else ' stroke-width="2"'
    return f'class="s-{one.token}" stroke-linejoin="round"{faint}{dashed}'


def _marker(token: str, x: float, y: float, radius: float, series: str = "") -> str:
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
    series = f' data-series="{series}"' if series else ""
    return f'<path {kind}{series} d="{shapes.get(token, square)}"/>'


def _svg(width: float, height: float, body: Sequence[str], label: str, more: str = "") -> Markup:
    size = f'viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
    return Markup(f'<svg class="chart" {size}{more} role="img" aria-label="{_t(label)}">{"".join(body)}</svg>')


def _t(text: str) -> str:
    return str(escape(visible(text)))


def _n(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{round(value, 1):g}"
