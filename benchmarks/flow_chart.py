"""Draw the speed of flow methods against their error, one marker per method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

# The same points give the same file: fixed ids, and no date below.
matplotlib.rcParams.update({"svg.hashsalt": "flow", "svg.fonttype": "none", "font.family": "sans-serif"})


class Point(NamedTuple):
    """A method with its milliseconds per pair and mean EPE in pixels; a line joins the methods of a family."""

    name: str
    family: str
    ms: float
    epe: float


def draw_chart(points: Sequence[Point], title: str, path: Path) -> None:
    """Write an SVG file: milliseconds per pair on a logarithmic axis, EPE from zero."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for family in dict.fromkeys(point.family for point in points):
        members = sorted((point for point in points if point.family == family), key=lambda point: point.ms)
        axes.plot([point.ms for point in members], [point.epe for point in members], "o-", linewidth=1)
    for point in points:
        axes.annotate(point.name, (point.ms, point.epe), xytext=(5, 5), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", xlabel="milliseconds per pair", ylabel="mean EPE, pixels", title=title)
    axes.set_xlim(right=3.5 * max(point.ms for point in points))  # room for the last name
    axes.set_ylim(0, 1.1 * max(point.epe for point in points))
    axes.grid(alpha=0.3)
    figure.savefig(path, format="svg", metadata={"Date": None})
