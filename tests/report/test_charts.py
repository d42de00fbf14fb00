import re
from xml.etree import ElementTree

import pytest

from twostream.report import charts

HOSTILE = "<script>alert(1)</script> \"q' & \n\u202e走\x01"


def tree(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg))


def only(svgs: list[str]) -> ElementTree.Element:
    (svg,) = svgs
    return tree(svg)


LEGEND = [("rgb", "s"), ("fusion", "f")]


def drawn(svg: ElementTree.Element) -> list[ElementTree.Element]:
    """The visible rectangles."""
    return [rect for rect in svg.findall("rect") if rect.get("class") != "hit"]


def tooltips(svg: ElementTree.Element) -> list[str]:
    """The tooltips of rows or of x."""
    return [rect.find("title").text for rect in svg.findall("rect") if rect.get("class") == "hit"]


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name)) for name in names]


def test_bars_are_as_long_as_their_values():
    rows = [charts.Bar("a", [(10, "rgb")], "10"), charts.Bar("b", [(20, "rgb"), (5, "bad")], "25")]
    svg = only(charts.bars(rows, label="x"))
    first, second, third = drawn(svg)
    assert float(second.get("width")) == pytest.approx(2 * float(first.get("width")), abs=0.2)
    assert float(third.get("x")) == pytest.approx(sum(numbers(second, "x", "width")), abs=0.11)


def test_bars_of_nothing_are_a_chart_too():
    assert not drawn(only(charts.bars([], label="no rows")))
    assert not drawn(only(charts.bars([charts.Bar("a", [(0, "rgb")], "0")], label="zero")))


def test_bars_in_parts_share_one_scale():
    rows = [charts.Bar("a", [(10, "rgb")], "10"), charts.Bar("a_longer_name", [(20, "rgb")], "20")]
    (first,), (second,) = (drawn(tree(svg)) for svg in charts.bars(rows, label="x", most_rows=1))
    assert float(second.get("width")) == pytest.approx(2 * float(first.get("width")), abs=0.2)
    assert first.get("x") == second.get("x")


@pytest.mark.parametrize(("rows", "parts"), [(0, [0]), (1, [1]), (36, [36]), (37, [19, 18]), (101, [34, 34, 33])])
def test_rows_are_split_evenly_and_completely(rows, parts):
    found = charts.split_rows(list(range(rows)))
    assert [len(part) for part in found] == parts
    assert [row for part in found for row in part] == list(range(rows))


def test_diverging_bars_lie_on_their_side_of_the_line_and_are_as_long_as_their_counts():
    svg = only(charts.diverging([("a", 2, 6), ("b", 0, 3)], label="x", legend=[("bad", "harmed"), ("fusion", "saved")]))
    zero = float(re.match(r"M([\d.]+) ", svg.findall("path")[-1].get("d")).group(1))
    harmed, saved, other = drawn(svg)
    assert sum(numbers(harmed, "x", "width")) == pytest.approx(zero, abs=0.2)
    assert float(saved.get("x")) == pytest.approx(zero, abs=0.2)
    assert float(saved.get("width")) == pytest.approx(3 * float(harmed.get("width")), abs=0.3)
    assert float(saved.get("width")) == pytest.approx(2 * float(other.get("width")), abs=0.3)


def test_every_row_and_every_x_has_a_tooltip_with_its_values():
    dots = only(charts.dots([("a", [0.5, float("nan")]), ("b", [float("nan")] * 2)], label="x", legend=LEGEND))
    assert tooltips(dots) == ["a: s 50.0 %", "b: no test clips"]
    lines = [charts.Line("t", "rgb", [1, 2], [0.25, 0.5], detail="split 1"), charts.Line("v", "flow", [2], [0.75])]
    curve = tree(charts.lines(lines, label="x", x_label="epoch", per_cent=True))
    assert tooltips(curve) == ["epoch 1: t (split 1) 25.0 %", "epoch 2: t (split 1) 50.0 %, v 75.0 %"]
    edges = [numbers(rect, "x", "width") for rect in curve.findall("rect")]
    assert edges[0][0] + edges[0][1] == pytest.approx(edges[1][0], abs=0.2)  # no gap between them


def test_equal_values_do_not_hide_each_other():
    legend = [("extra1", "a"), ("extra2", "b"), ("extra3", "c")]  # all of one shape
    svg = only(charts.dots([("x", [0.5, 0.5, 0.25])], label="x", legend=legend))
    markers = [path.get("d") for path in svg.findall("path") if path.get("data-series")]
    (x0, y0), (x1, y1), (x2, y2) = (map(float, d[1:].split("h")[0].split()) for d in markers)
    assert x0 == x1 > x2
    assert y1 - y0 >= 6 and y2 == pytest.approx((y0 + y1) / 2)


def test_a_legend_too_long_for_one_line_takes_two_and_covers_nothing():
    entries = [("rgb", "a_long_name_of_a_stream"), ("flow", "another_long_name_of_one"), ("fusion", "fusion")]
    svg = only(charts.dots([("a", [0.5, 0.4, 0.3])], label="x", legend=entries))
    ys = [float(re.search(r" (\d+)\)", key.get("transform")).group(1)) for key in svg.findall("g")]
    assert len(set(ys)) == 2
    assert max(ys) < min(float(text.get("y")) for text in svg.findall("text"))


def test_hostile_labels_stay_labels_in_every_chart():
    drawings = [
        *charts.bars([charts.Bar(HOSTILE, [(1, "rgb")], HOSTILE)], label=HOSTILE, legend=[("rgb", HOSTILE)]),
        *charts.diverging([(HOSTILE, 1, 2)], label=HOSTILE, legend=[("bad", HOSTILE), ("fusion", "f")]),
        charts.intervals([charts.Interval(HOSTILE, "rgb", 0.5, 0.4, 0.6)], label=HOSTILE, chance=0.1),
        charts.lines(
            [charts.Line(HOSTILE, "rgb", [1, 2], [1, 2]), charts.Line("b", "flow", [1], [1])],
            label="x",
            x_label=HOSTILE,
        ),
        *charts.dots([(HOSTILE, [0.5, 0.2])], label=HOSTILE, legend=[("rgb", HOSTILE), ("fusion", "f")]),
        charts.heatmap([[1, 2], [0, 3]], [HOSTILE, "b"], label=HOSTILE),
    ]
    for svg in drawings:
        assert {element.tag for element in tree(svg).iter()} <= {"svg", "title", "text", "rect", "path", "g"}


def test_a_standalone_chart_contains_its_colours():
    (svg,) = charts.bars([charts.Bar("a", [(1, "rgb")], "1")], label="x")
    svg = charts.standalone(svg)
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "--rgb:#0072b2" in svg and "prefers-color-scheme:dark" in svg


def test_lines_leave_out_what_is_not_a_number():
    nan = float("nan")
    svg = tree(charts.lines([charts.Line("a", "rgb", [1, 2, 3], [1.0, nan, 2.0], mark=1)], label="x", x_label="e"))
    (line,) = [p for p in svg.findall("path") if p.get("class") == "s-rgb"]
    assert line.get("d").count("L") == 1
    assert not [p for p in svg.findall("path") if p.get("class") == "f-rgb"]
    tree(charts.lines([charts.Line("a", "rgb", [1, 2], [nan, nan])], label="x", x_label="e"))
    tree(charts.lines([charts.Line("a", "rgb", [], [])], label="x", x_label="e"))


def test_a_greater_value_stands_higher_and_a_later_one_further_right():
    svg = tree(charts.lines([charts.Line("a", "rgb", [0, 1], [0.0, 1.0])], label="x", x_label="e", per_cent=True))
    (line,) = [p for p in svg.findall("path") if p.get("class") == "s-rgb"]
    (x0, y0), (x1, y1) = (map(float, point.split()) for point in line.get("d")[1:].split("L"))
    assert x1 > x0 and y1 < y0
    grid = [
        float(re.search(r"M46 ([\d.]+)H", p.get("d")).group(1)) for p in svg.findall("path") if p.get("class") == "grid"
    ]
    assert max(grid) == y0 and min(grid) == y1  # the scale ends at 0 and 100 per cent


def test_lines_of_one_chart_differ_by_more_than_colour():
    series = [
        charts.Line(name, token, [0, 1], [0, 1]) for name, token in (("a", "rgb"), ("b", "flow"), ("c", "extra1"))
    ]
    svg = tree(charts.lines(series, label="x", x_label="e"))
    dashes = {p.get("class"): p.get("stroke-dasharray") for p in svg.findall("path") if p.get("class") != "grid"}
    assert len(set(dashes.values())) == 3


def test_the_heat_map_draws_each_confusion_once_and_no_zero():
    counts = [[3, 1, 0], [0, 0, 0], [0, 2, 2]]
    svg = tree(charts.heatmap(counts, ["a", "b", "c"], label="x"))
    titles = sorted(rect.find("title").text for rect in svg.findall("rect") if rect.find("title") is not None)
    assert titles == ["a → a: 3 of 4", "a → b: 1 of 4", "c → b: 2 of 4", "c → c: 2 of 4"]


def test_labels_of_a_large_heat_map_are_shortened_with_the_full_name_as_tooltip():
    name = "a_class_with_a_name_that_is_far_too_long"
    svg = tree(charts.heatmap([[1, 0], [0, 1]], [name, "b"], label="x"))
    label = next(text for text in svg.findall("text") if text.find("title") is not None)
    assert label.find("title").text == name and label.find("title").tail.endswith("…")


def test_fused_streams_have_the_colours_of_their_modality_and_no_two_systems_share_one():
    tokens = charts.stream_tokens({"spatial": "rgb", "temporal": "flow", "late": "flow"}, ["cnn3d_v1", "cnn3d_v2"])
    assert (tokens["spatial"], tokens["temporal"], tokens["fusion"]) == ("rgb", "flow", "fusion")
    assert len(set(tokens.values())) == len(tokens) == 6
    assert list(tokens)[-1] == "fusion"
