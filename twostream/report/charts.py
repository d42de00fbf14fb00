"""Charts as SVG: bars, intervals, lines, dots and a heat map, in the colours of the page around them.

Every function returns markup that is safe to put into a page: labels are escaped here. Colours are CSS variables, named
by tokens (:data:`TOKENS`). Series never differ by colour alone: each token has its own marker and dash.

The charts need no script. A script can build on `.hit` areas, one per row or per x, whose <title> is a tooltip;
`data-series` on the parts of a series and on its entry in the legend, `.key`; and in a heat map `data-at` (row and
column) on cells, `data-row` and `data-column` on labels, `data-grid` (left, top, cell in pixels) on the SVG. Vega would
need 0.8 MB of script with permission to evaluate code, and would draw nothing without it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup, escape

from twostream.report.text import shorten, visible, width_em

# The palette of Okabe & Ito, safe for colour-blind readers, shaded for contrast on white and on near-black.
_COLOURS = {  # on white, on near-black
    "ink": ("#1c2024", "#e7e9ec"),
    "muted": ("#626a73", "#9aa3ad"),
    "line": ("#dfe3e8", "#333a42"),
    "paper": ("#ffffff", "#14171a"),
    "rgb": ("#0072b2", "#56b4e9"),
    "flow": ("#d55e00", "#f08a3c"),
    "fusion": ("#008a66", "#35c79c"),
    "extra1": ("#a8508a", "#d98fc0"),
    "extra2": ("#6d7680", "#98a2ad"),
    "extra3": ("#a67c00", "#e0b93f"),
    "extra4": ("#3a92c8", "#8cc8ee"),
    "bad": ("#b3261e", "#f2857c"),
}
TOKENS = ("rgb", "flow", "fusion", "extra1", "extra2", "extra3", "extra4")

MOST_ROWS = 36  # of one chart: as many as fit on a printed page; longer lists become several charts

_WIDTH = 400  # pixels; text stays legible when a phone shows the full width
_TIMELINE = 900  # pixels of the width of timelines
_LABELS = 140  # pixels at most for the labels on the left
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_DASHES = ("", "9 3", "2 3", "9 3 2 3", "5 2", "14 4")  # of the full lines of one chart; the first is solid

_LIGHT, _DARK = (
    ":root{" + "".join(f"--{name}:{pair[scheme]};" for name, pair in _COLOURS.items()) + "}" for scheme in (0, 1)
)
THEME = f"{_LIGHT}@media screen and (prefers-color-scheme:dark){{{_DARK}}}"
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


def stream_tokens(fused: dict[str, str], baselines: Iterable[str] = ()) -> dict[str, str]:
    """Return the token of each stream, then of `fusion`: the first fused stream of a modality has its colour.

    Args:
        fused: modality of each fused stream, by its name.
        baselines: names of the other streams.
    """
    tokens: dict[str, str] = {}
    extras = itertools.cycle(TOKENS[3:])
    for name, modality in fused.items():
        tokens[name] = next(extras) if modality in tokens.values() else modality
    return tokens | {name: next(extras) for name in baselines} | {"fusion": "fusion"}


class Bar(NamedTuple):
    """A row of :func:`bars`: parts follow each other, each a value and its token; `text` comes last."""

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
    """A series of :func:`lines`. Points whose y is not finite are left out; `mark` is the index of a point to mark.

    Lines with the same label are one series; `detail` distinguishes them.
    """

    label: str
    token: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False
    mark: int | None = None
    detail: str = ""


Row = TypeVar("Row")


def bars(
    rows: Sequence[Bar], *, label: str, legend: Sequence[tuple[str, str]] = (), most_rows: int = MOST_ROWS
) -> list[Markup]:
    """Draw horizontal bars from zero, one per row, in charts of one scale. `legend` pairs tokens with words."""
    # The band for labels is as wide as the longest label, but never takes the space of the bars.
    band = _label_width([row.label for row in rows], 2)
    tail = max((width_em(row.text) for row in rows), default=0) * 12
    largest = max((sum(value for value, _ in row.parts) for row in rows), default=0) or 1
    unit = max(_WIDTH - band - tail - 20, 80) / largest
    height, words, charts = (22 if len(rows) <= MOST_ROWS else 18), dict(legend), []
    for part in split_rows(rows, most_rows):
        canvas = _Canvas()
        top = 26 + canvas.legend(legend) if legend else 4
        for number, row in enumerate(part):
            y, x = top + (number + 0.5) * height, band + 10.0
            canvas.row_label(row.label, band, y)
            for value, token in row.parts:
                if value > 0:
                    canvas.bar(token, x, y, value * unit, height)
                    x += value * unit
            canvas.text(x + 6, y, row.text, "muted")
            shares = "".join(f"; {words[token]} {value:g}" for value, token in row.parts if token in words)
            canvas.row_tooltip(y, height, f"{row.label}: {row.text}{shares}")
        charts.append(canvas.svg(_WIDTH, top + len(part) * height + 4, label))
    return charts


def diverging(rows: Sequence[tuple[str, int, int]], *, label: str, legend: Sequence[tuple[str, str]]) -> list[Markup]:
    """Draw counts to the left and to the right of zero, in charts of one scale.

    Args:
        rows: label, left count and right count.
        legend: token and words of the left and of the right side.
    """
    band, height, numbers = _label_width([name for name, _, _ in rows], 2), 22, 26
    most_left, most_right = (max((row[1] for row in rows), default=0), max((row[2] for row in rows), default=0))
    unit = (_WIDTH - band - 10 - 2 * numbers) / max(most_left + most_right, 1)
    zero = band + 10 + numbers + most_left * unit
    (left_token, left_words), (right_token, right_words) = legend
    charts = []
    for part in split_rows(rows):
        canvas = _Canvas()
        top = 26 + canvas.legend(legend)
        for number, (name, left, right) in enumerate(part):
            y = top + (number + 0.5) * height
            canvas.row_label(name, band, y)
            if left:
                canvas.bar(left_token, zero - left * unit, y, left * unit, height)
                canvas.text(zero - left * unit - 5, y, str(left), "muted end")
            if right:
                canvas.bar(right_token, zero, y, right * unit, height)
                canvas.text(zero + right * unit + 5, y, str(right), "muted")
            canvas.row_tooltip(y, height, f"{name}: {left_words} {left}, {right_words} {right}")
        bottom = top + len(part) * height
        canvas.path("axis", "M", zero, top, "V", bottom)
        charts.append(canvas.svg(_WIDTH, bottom + 4, label))
    return charts


def intervals(rows: Sequence[Interval], *, label: str, chance: float) -> Markup:
    """Draw accuracies as markers with their intervals on one scale of per cent; `chance` is a dashed line."""
    band = _label_width([row.label for row in rows], 8, em=13)
    height, top = 30, 22
    low, high, ticks = _scale([0.0, *(row.high for row in rows)], top_at=1.0)
    scale = _Axis(low, high, band + 12, _WIDTH - 56)
    bottom = top + len(rows) * height
    canvas = _Canvas()
    for tick in ticks:
        canvas.vertical_grid(scale(tick), top, bottom, f"{100 * tick:.0f} %")
    canvas.path("rule", "M", scale(chance), top - 6, "V", bottom)
    canvas.text(scale(chance), 7, "chance", "muted middle")
    for number, row in enumerate(rows):
        y = top + (number + 0.5) * height
        strong = " strong" if row.token == "fusion" else ""
        canvas.row_label(row.label, band, y, strong)
        start, end, kind = scale(row.low), scale(row.high), f"s-{row.token}"
        canvas.path(kind, "M", start, y, "H", end, stroke_width=2)
        canvas.path(kind, "M", start, y - 4, "v", 8, "M", end, y - 4, "v", 8, stroke_width=2)
        canvas.marker(row.token, scale(row.value), y, 6)
        canvas.text(_WIDTH, y, f"{100 * row.value:.1f} %", f"end{strong}")
        interval = f"interval {100 * row.low:.1f} to {100 * row.high:.1f} %"
        canvas.row_tooltip(y, height, f"{row.label}: {100 * row.value:.1f} %, {interval}")
    return canvas.svg(_WIDTH, bottom + 24, label)


def lines(series: Sequence[Line], *, label: str, x_label: str, per_cent: bool = False) -> Markup:
    """Draw curves over one x axis. `per_cent`: y are fractions, on a scale from 0 that ends at 1 at most."""
    numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(line.label for line in series))}
    full = dict.fromkeys(line.label for line in series if not line.faint)
    dashes = {name: _DASHES[number % len(_DASHES)] for number, name in enumerate(full)}
    canvas, left, right = _Canvas(), 46, _WIDTH - 12
    more = canvas.line_legend({line.label: line for line in series}, dashes, left) if len(numbers) > 1 else 0
    top, bottom = 30 + more, 200 + more
    xs = [x for line in series for x in line.x]
    ys = [y for line in series for y in line.y if math.isfinite(y)]
    low, high, ticks = _scale(xs, zero=False, whole=all(float(x).is_integer() for x in xs))
    horizontal = _Axis(low, high, left, right)
    for tick in ticks:
        canvas.text(horizontal(tick), bottom + 13, f"{tick:g}", "muted middle")
    from_zero = bool(ys) and 0 <= min(ys) < 0.5 * max(ys)
    low, high, ticks = _scale([0.0, *ys], top_at=1.0) if per_cent else _scale(ys, zero=from_zero)
    vertical = _Axis(low, high, bottom, top)
    for tick in ticks:
        canvas.path("grid", "M", left, vertical(tick), "H", right)
        canvas.text(left - 6, vertical(tick), f"{100 * tick:.0f} %" if per_cent else f"{tick:g}", "muted end")
    canvas.text((left + right) / 2, bottom + 30, x_label, "muted middle")
    for line in series:
        points = [(horizontal(x), vertical(y)) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        if len(points) == 1:
            canvas.marker(line.token, *points[0], 3, numbers[line.label])
        elif points:
            data = [part for point in points for part in ("L", *point)]
            data[0] = "M"
            canvas.path(f"s-{line.token}", *data, data_series=numbers[line.label], **_stroke(line, dashes))
        if line.mark is not None and math.isfinite(line.y[line.mark]):
            x, y = horizontal(line.x[line.mark]), vertical(line.y[line.mark])
            canvas.marker(line.token, x, y, 5, numbers[line.label])
    for x, start, end in _nearest_ranges(sorted(set(xs)), horizontal):
        values = ", ".join(filter(None, (_value_at(line, x, per_cent) for line in series)))
        canvas.tooltip(start, top, end - start, bottom - top, f"{x_label} {x:g}: {values}")
    return canvas.svg(_WIDTH, 240 + more, label)


def _stroke(line: Line, dashes: dict[str, str]) -> dict[str, Any]:
    if line.faint:
        return {"stroke_linejoin": "round", "stroke_opacity": ".65", "stroke_width": 1.5, "stroke_dasharray": "5 4"}
    return {"stroke_linejoin": "round", "stroke_width": 2, "stroke_dasharray": dashes[line.label]}


def _nearest_ranges(xs: Sequence[float], axis: _Axis) -> Iterator[tuple[float, float, float]]:
    """Yield each x with the range of pixels in which it is the nearest one."""
    pixels = [axis(x) for x in xs]
    edges = [axis.start, *((a + b) / 2 for a, b in zip(pixels, pixels[1:], strict=False)), axis.end]
    return zip(xs, edges, edges[1:], strict=False)


def _value_at(line: Line, x: float, per_cent: bool) -> str:
    """Return name and value of a line at x, or "" where it has no value."""
    y = dict(zip(line.x, line.y, strict=True)).get(x, math.nan)
    if not math.isfinite(y):
        return ""
    name = f"{line.label} ({line.detail})" if line.detail else line.label
    return f"{name} {100 * y:.1f} %" if per_cent else f"{name} {y:.3f}"


def dots(rows: Sequence[tuple[str, Sequence[float]]], *, label: str, legend: Sequence[tuple[str, str]]) -> list[Markup]:
    """Draw accuracies of several systems per row, joined by a line from the least to the greatest.

    Args:
        rows: label, and one fraction (NaN for none) for each entry of `legend`.
        legend: token and words of each system; the last is drawn on top.
    """
    band, height, charts = _label_width([name for name, _ in rows], 8), 20, []
    scale = _Axis(0.0, 1.0, band + 16, _WIDTH - 24)
    for part in split_rows(rows):
        canvas = _Canvas()
        top = 48 + canvas.legend(legend, marker=True)
        bottom = top + len(part) * height
        for tick in range(0, 101, 25):
            canvas.vertical_grid(scale(tick / 100), top, bottom, f"{tick} %")
            canvas.text(scale(tick / 100), top - 12, f"{tick} %", "muted middle")  # again, at the head of a long chart
        for number, (name, values) in enumerate(part):
            y = top + (number + 0.5) * height
            canvas.row_label(name, band, y)
            known = [value for value in values if math.isfinite(value)]
            if known:
                canvas.path("s-line", "M", scale(min(known)), y, "H", scale(max(known)), stroke_width=3)
            else:
                canvas.text(scale(0) + 6, y, "no test clips", "muted")
            shown = []
            for (token, words), value, shift in zip(legend, values, _vertical_shifts(values), strict=True):
                if math.isfinite(value):
                    canvas.marker(token, scale(value), y + shift, 5 if token == "fusion" else 4.5, token)
                    shown.append(f"{words} {100 * value:.1f} %")
            canvas.row_tooltip(y, height, f"{name}: {', '.join(shown) or 'no test clips'}")
        charts.append(canvas.svg(_WIDTH, bottom + 24, label))
    return charts


class Track(NamedTuple):
    """A row of :func:`timeline`: spans in seconds with their words and tokens, and what stands for the row."""

    label: str
    spans: Sequence[tuple[float, float, str, str]]


def timeline(rows: Sequence[Track], start: float, end: float, *, label: str) -> Markup:
    """Draw tracks of labelled spans below each other, over one axis of seconds."""
    band, height, top = _label_width([row.label for row in rows], 2), 26, 4
    low, high, ticks = _scale([start, end], zero=False)
    scale = _Axis(start, end, band + 12, _TIMELINE - 4)
    bottom = top + len(rows) * height
    canvas = _Canvas()
    for tick in ticks:
        if start <= tick <= end:
            canvas.vertical_grid(scale(tick), top, bottom, f"{tick:g} s")
    for number, row in enumerate(rows):
        y = top + (number + 0.5) * height
        canvas.row_label(row.label, band, y)
        for first, last, words, token in row.spans:
            x, width = scale(max(first, start)), scale(min(last, end)) - scale(max(first, start))
            canvas.bar(token, x, y, max(width, 1), height)
            shown = shorten(visible(words), (width - 6) / 11)
            if width_em(shown) > 1.5:
                canvas.text(x + 4, y, shown, "on", font_size=11)
            canvas.tooltip(
                x, y - height / 2, max(width, 3), height, f"{row.label}: {words}, {first:.2f} to {last:.2f} s"
            )
    return canvas.svg(_TIMELINE, bottom + 22, label)


def _vertical_shifts(values: Sequence[float]) -> list[float]:
    """Return the pixels by which each marker of a row is moved, so that equal values do not hide each other."""
    return [3.5 * (2 * values[:place].count(value) - values.count(value) + 1) for place, value in enumerate(values)]


def heatmap(counts: Sequence[Sequence[int]], names: Sequence[str], *, label: str) -> Markup:
    """Draw a confusion matrix: rows are true classes, columns predictions, the shade is the share of the row.

    Cells of zero are left out; numbers are written where the cells are large enough.
    """
    cell = min(max(700 // max(len(names), 1), 10), 46)
    size = min(12.0, cell * 0.85)  # of the font
    longest = min(max(width_em(visible(name)) for name in names), 14.0)
    slant, turn = (0.72, -45) if cell >= 26 else (1.0, -90)  # of the column labels
    band = longest * size + 8
    left, top, side = band + 22, band * slant + 26, cell * len(names)
    canvas = _Canvas()
    canvas.text(left + side / 2, 7, "predicted", "muted middle")
    canvas.text(None, None, "actual", "muted middle", transform=f"translate(7 {_n(top + side / 2)}) rotate(-90)")
    canvas.add("rect", class_="s-line", **_rectangle(left, top, side, side))
    for number, name in enumerate(names):
        middle = (number + 0.5) * cell
        words = shorten(visible(name), longest)
        style: dict[str, Any] = {"font_size": size, "tooltip": name}
        canvas.text(left - 6, top + middle, words, "end", data_row=str(number), **style)
        move = f"translate({_n(left + middle)} {_n(top - 6)}) rotate({turn})"
        canvas.text(None, None, words, transform=move, data_column=str(number), **style)
    for row, row_counts in enumerate(counts):
        for column, count in enumerate(row_counts):
            if not count:
                continue
            x, y, share, gap = left + column * cell, top + row * cell, count / sum(row_counts), int(cell >= 14)
            canvas.add(
                "rect",
                _element("title", _t(f"{names[row]} → {names[column]}: {count} of {sum(row_counts)}")),
                class_="f-fusion" if row == column else "f-bad",
                data_at=f"{row} {column}",
                # Never fainter than a tenth: one clip of a hundred is an error that should be visible.
                fill_opacity=f"{0.1 + 0.9 * share:.2f}",
                **_rectangle(x + gap, y + gap, cell - 2 * gap, cell - 2 * gap),
            )
            if cell >= 26:
                kind = "middle on" if share > 0.55 else "middle"
                canvas.text(x + cell / 2, y + cell / 2, str(count), kind, pointer_events="none")
    right = band * slant if slant < 1 else 8
    return canvas.svg(left + side + right, top + side + 6, label, data_grid=f"{_n(left)} {_n(top)} {cell}")


def split_rows(rows: Sequence[Row], most: int = MOST_ROWS) -> list[Sequence[Row]]:
    """Return the rows in order, in the fewest parts of about equal length that hold at most `most` each."""
    parts = max(1, math.ceil(len(rows) / most))
    each = math.ceil(len(rows) / parts)
    return [rows[start : start + each] for start in range(0, max(len(rows), 1), max(each, 1))]


def standalone(svg: Markup) -> str:
    """Return the chart as the text of an SVG file, with its colours inside."""
    head, rest = str(svg).split(">", 1)
    style = f"<style>{THEME}{STYLE}svg{{background:var(--paper)}}</style>"
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


class _Canvas:
    """An SVG under construction. Coordinates are pixels from the top left corner; y of text is its middle."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def add(self, tag: str, content: str = "", **attributes: Any) -> None:
        self._elements.append(_element(tag, content, **attributes))

    def text(
        self, x: float | None, y: float | None, words: str, kind: str = "", *, tooltip: str = "", **attributes: Any
    ) -> None:
        title = _element("title", _t(tooltip)) if tooltip else ""
        self.add("text", title + _t(words), class_=kind, x=x, y=y, dy=".35em", **attributes)

    def path(self, kind: str, *data: str | float, **attributes: Any) -> None:
        """Draw a path of SVG commands and coordinates."""
        text = " ".join(part if isinstance(part, str) else _n(part) for part in data)
        self.add("path", class_=kind, d=re.sub(" ?([A-Za-z]) ?", r"\1", text), **attributes)

    def bar(self, token: str, x: float, y: float, width: float, height: float) -> None:
        self.add("rect", class_=f"f-{token}", data_series=token, **_rectangle(x, y - height / 2 + 3, width, height - 6))

    def marker(self, token: str, x: float, y: float, radius: float, series: str = "") -> None:
        """Draw a circle for appearance, a triangle for motion, a diamond for fusion, open squares for other streams."""
        r, wide, d, s = radius, 1.15 * radius, 1.35 * radius, 0.85 * radius
        shapes: dict[str, tuple[str | float, ...]] = {
            "rgb": ("M", x - r, y, "a", r, r, 0, 1, 0, 2 * r, 0, "a", r, r, 0, 1, 0, -2 * r, 0, "z"),
            "flow": ("M", x, y - wide, "l", wide, 2 * r, "h", -2 * wide, "z"),
            "fusion": ("M", x, y - d, "l", d, d, -d, d, -d, -d, "z"),
        }
        square = ("M", x - s, y - s, "h", 2 * s, "v", 2 * s, "h", -2 * s, "z")
        kind, width = (f"f-{token}", None) if token in shapes else (f"s-{token}", 1.8)
        self.path(kind, *shapes.get(token, square), data_series=series, stroke_width=width)

    def vertical_grid(self, x: float, top: float, bottom: float, words: str) -> None:
        self.path("grid", "M", x, top, "V", bottom)
        self.text(x, bottom + 12, words, "muted middle")

    def row_label(self, name: str, width: float, y: float, kind: str = "") -> None:
        self.text(width, y, shorten(visible(name), width / 12 + 0.01), f"end{kind}", tooltip=name)

    def row_tooltip(self, y: float, height: float, words: str) -> None:
        self.tooltip(0, y - height / 2, _WIDTH, height, words)

    def tooltip(self, x: float, y: float, width: float, height: float, words: str) -> None:
        """Add a transparent hover target with a tooltip."""
        self.add("rect", _element("title", _t(words)), class_="hit", **_rectangle(x, y, width, height))

    def legend(self, entries: Sequence[tuple[str, str]], *, marker: bool = False) -> float:
        """Draw a legend of tokens and words at the head and return the height of its lines after the first."""
        signs = []
        for token, words in entries:
            sign = _Canvas()
            if marker:
                sign.marker(token, 6, 0, 5)
            else:
                sign.add("rect", class_=f"f-{token}", y=-5, width=11, height=11)
            signs.append((token, sign, words))
        return self._keys(signs, 0, 17)

    def line_legend(self, entries: dict[str, Line], dashes: dict[str, str], left: float) -> float:
        signs = []
        for number, line in enumerate(entries.values()):
            sign = _Canvas()
            sign.path(f"s-{line.token}", "M", 0, 0, "h", 18, **_stroke(line, dashes))
            signs.append((str(number), sign, line.label))
        return self._keys(signs, left, 24)

    def _keys(self, entries: Sequence[tuple[str, _Canvas, str]], left: float, indent: float) -> float:
        """Draw entries (series, sign, words) side by side, in as many lines as needed."""
        x, line = left, 0
        for series, sign, words in entries:
            width = indent + width_em(visible(words)) * 12
            if x > left and x + width > _WIDTH:
                x, line = left, line + 1
            sign.text(indent, 0, shorten(visible(words), (_WIDTH - left - indent) / 12))
            move = f"translate({_n(x)} {10 + 18 * line})"
            self.add("g", "".join(sign._elements), class_="key", data_series=series, transform=move)
            x += width + 15
        return 18 * line

    def svg(self, width: float, height: float, label: str, **attributes: Any) -> Markup:
        box = f"0 0 {_n(width)} {_n(height)}"
        attributes |= {"class_": "chart", "viewBox": box, "width": width, "height": height, "role": "img"}
        content = "".join(self._elements) or " "  # without content the tag would be closed at once
        return Markup(_element("svg", content, **attributes, aria_label=label))


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
    """Return the ends of an axis and its three to seven round ticks; the upper end is at most `top_at`."""
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


def _label_width(names: Sequence[str], gap: float, em: float = 12) -> float:
    return min(max((width_em(visible(name)) for name in names), default=0) * em + gap, _LABELS)


def _rectangle(x: float, y: float, width: float, height: float) -> dict[str, Any]:
    return {"x": x, "y": y, "width": width, "height": height}


def _element(tag: str, content: str = "", **attributes: Any) -> str:
    """Return an SVG element; `class_` and `data_row` become `class` and `data-row`; None and "" are left out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_n(value) if isinstance(value, (int, float)) else _t(value)}"'
        for name, value in attributes.items()
        if value not in (None, "")
    )
    return f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>"


def _t(text: object) -> str:
    return str(escape(visible(text)))


def _n(value: float) -> str:
    """Return a coordinate as text: a tenth of a pixel is enough."""
    return f"{round(value, 1):g}"
