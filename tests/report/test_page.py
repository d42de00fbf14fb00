import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml

from twostream.datasets.tables import CLIP_COLUMNS
from twostream.params import parse_params
from twostream.report import charts
from twostream.report.explore import explore
from twostream.report.page import stream_tokens, write_report
from twostream.report.strips import MOST_FRAMES, film_strip, strips_image
from twostream.report.text import shorten, visible, width_em

HOSTILE = "<script>alert(1)</script> \"q' & \n\u202e走\x01"
VOID = {"meta", "img", "br", "hr", "input", "link", "path", "rect"}


class Page(HTMLParser):
    """Elements, the text outside script and style, and a check that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in {"meta", "img"}:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def example(clip_id: str, frames: int = 5, size=(48, 64)) -> tuple[str, np.ndarray, np.ndarray]:
    rgb = np.random.default_rng(0).integers(0, 256, (frames, *size, 3)).astype(np.uint8)
    return clip_id, rgb, np.ones((frames, *size, 2), np.float32)


@pytest.fixture
def arguments(tmp_path, demo_values) -> dict:
    """A small result, written by hand: two classes, of which one has a hostile name; one unreadable clip."""
    classes = ["jump", HOSTILE]
    rows = [(f"{c}/{k}", "", c, f"g{k}", 0, 0.0, 0, 0, "missing", "no <b>file</b>") for c in classes for k in range(2)]
    clips = pd.DataFrame(rows, columns=CLIP_COLUMNS)
    explore(clips, tmp_path, tmp_path / "explore")

    def accuracy(top1):
        return {
            "top1": top1,
            "top5": 1.0,
            "mean_class_accuracy": top1,
            "top1_low": 0.1,
            "top1_high": 0.95,
            "top1_std": 0.02,
        }

    systems = {"spatial": 0.5, "temporal": 0.625, "cnn3d_v1": 0.3, "cnn3d_v2": 0.25, "fusion": 0.75}
    epochs = {"epoch": [1, 2], "train_loss": [1.5, 1.0], "val_loss": [1.6, np.nan], "train_top1": [0.2, 0.4]}
    mistake = {"split": 1, "clip_id": f"{HOSTILE}/0", "actual": HOSTILE, "predicted": "jump", "confidence": 0.987}
    mistake |= {"spatial": "jump", "spatial_confidence": 0.8, "temporal": HOSTILE, "temporal_confidence": 0.4}
    return {
        "params": parse_params(demo_values),
        "clips": clips,
        "splits": {1: pd.Series("test", index=clips["clip_id"], name="subset")},
        "explore_dir": tmp_path / "explore",
        "metrics": {name: accuracy(top1) for name, top1 in systems.items()}
        | {
            "fusion_gain": {"top1": 0.125, "low": -0.0333, "high": 0.2},
            "clips": {"total": 4, "unreadable": 0, "missing": 4},
        },
        "per_class": pd.DataFrame(
            {
                "class": classes,
                "clips": [4, 0],
                "spatial": [0.5, np.nan],
                "temporal": [0.75, np.nan],
                "fusion": [1.0, np.nan],
            }
        ),
        "confusion": pd.DataFrame(
            {"actual": ["jump", "jump", HOSTILE, HOSTILE], "predicted": ["jump", "jump", "jump", HOSTILE]}
        ),
        "sweep": {
            1: pd.DataFrame(
                {"stream": "temporal", "weight": [0.0, 0.5, 1.0], "top1": [0.5, 0.8, 0.6], "nll": [1.0, 0.5, 0.9]}
            ).assign(chosen=[False, True, False])
        },
        "curves": {"spatial-1": pd.DataFrame(epochs | {"val_top1": [0.3, np.nan]})},
        "contribution": pd.DataFrame(
            {
                "split": 1,
                "clip_id": ["jump/0", "jump/1", f"{HOSTILE}/0", f"{HOSTILE}/1"],
                "class": ["jump", "jump", HOSTILE, HOSTILE],
                "right": ["all", "spatial", "temporal", "none"],
                "fusion": [True, True, False, True],
                "effect": ["same", "rescued", "harmed", "rescued"],
            }
        ),
        "mistakes": pd.DataFrame([mistake]),
        "examples": [example("jump/0")],
        "mistake_examples": [example(f"{HOSTILE}/0")],
        "versions": {"python": "3.11"},
        "digests": {"params.yaml": "abc"},
    }


def written(tmp_path: Path, arguments: dict) -> str:
    write_report(tmp_path / "report.html", **arguments)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_needs_nothing_from_outside(tmp_path, arguments):
    html = written(tmp_path, arguments)
    page = Page(html)
    assert not page.all("link") and not page.all("iframe")
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert all("alt" in image for image in page.all("img"))
    assert all(anchor["href"].startswith("#") for anchor in page.all("a"))
    assert not re.search(r"https?://", html)
    targets = {attributes.get("id") for _, attributes in page.elements}
    assert {anchor["href"][1:] for anchor in page.all("a")} <= targets


def test_only_the_script_of_the_page_may_run(tmp_path, arguments):
    html = written(tmp_path, arguments)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(m["content"] for m in Page(html).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_hostile_names_are_shown_as_text(tmp_path, arguments):
    page = Page(written(tmp_path, arguments))
    assert len(page.all("script")) == 1
    assert "<script>alert(1)</script> \"q' & ␊�走␁" in page.text
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert "no <b>file</b>" in page.text and not {"b" for b in page.all("b") if "file" in str(b)}


def test_every_chart_has_words_for_those_who_do_not_see_it(tmp_path, arguments):
    charts_ = [a for a in Page(written(tmp_path, arguments)).all("svg")]
    # results, clips, minutes, durations, loss, top-1, overlap, per class, motion, two sweeps, confusion
    assert len(charts_) == 12
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 10 for svg in charts_)


def test_the_results_are_per_cents_with_their_intervals_and_the_gain(tmp_path, arguments):
    text = Page(written(tmp_path, arguments)).text
    assert "names the class of 75.0 % of 4 test clips, 12.5 points above temporal" in text
    assert "−3.3 to +20.0 points" in text
    assert "do not show that fusion helps" in text
    assert "cnn3d_v1 rgb cnn3d_v1 30.0 10.0 to 95.0 100.0 30.0" in text
    assert "fusion spatial + temporal weighted 75.0" in text


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.01, 0.2, "fusion helps"), (-0.2, -0.01, "fusion harms")])
def test_the_verdict_follows_the_interval(tmp_path, arguments, low, high, verdict):
    arguments["metrics"]["fusion_gain"].update(low=low, high=high)
    assert f"on clips like these, {verdict}." in Page(written(tmp_path, arguments)).text


def test_the_spread_over_splits_is_told_only_where_there_are_several(tmp_path, arguments, demo_values):
    assert "Std over splits" not in written(tmp_path, arguments)
    demo_values = yaml.safe_load(yaml.safe_dump(demo_values))
    demo_values["dataset"]["splits"] = [1, 2]
    arguments["params"] = parse_params(demo_values)
    assert "Std over splits" in written(tmp_path, arguments)


def test_published_numbers_stand_beside_the_data_set_they_are_of(tmp_path, arguments, demo_values):
    assert "Simonyan" not in written(tmp_path, arguments)
    values = yaml.safe_load(yaml.safe_dump(demo_values))
    told = {}
    for name in ("hmdb51", "ucf101"):
        values["dataset"]["name"] = name
        arguments["params"] = parse_params(values)
        told[name] = Page(written(tmp_path, arguments)).text
        assert "quoted, not measured here" in told[name]
    assert "Two-Stream ImageNet (spatial) 1, 2, 3 40.5* 54.6* 59.4 Simonyan & Zisserman" in told["hmdb51"]
    assert "I3D ImageNet + Kinetics 1 74.8 77.1* 80.7" in told["hmdb51"] and "68.5*" in told["hmdb51"]
    assert "Two-Stream ImageNet (spatial) 1, 2, 3 73.0* 83.7* 88.0 Simonyan & Zisserman" in told["ucf101"]


def test_motion_is_measured_against_appearance_even_where_motion_is_the_best_stream(tmp_path, arguments):
    """By hand: of the four clips fusion rescues jump/0's class not at all; spatial alone fails on the two of the other
    class, of which fusion gets one (none right) and not the other (temporal right)."""
    arguments["metrics"]["temporal"]["top1"] = 0.9
    text = Page(written(tmp_path, arguments)).text
    assert "Rescued: fusion is right where spatial alone is wrong." in text
    assert "In all 1 rescued and 0 harmed." in text


def test_the_overlap_of_errors_is_told_beside_what_chance_would_give(tmp_path, arguments):
    """Right are: both, spatial, temporal, none. Each errs on two of four, so by chance both on 4 * 1/2 * 1/2 = 1."""
    text = Page(written(tmp_path, arguments)).text
    assert "spatial is wrong on 2 clips, temporal is wrong on 2 clips; both on 1." in text
    assert "that would be 1.0." in text and "would reach 75.0 %" in text


def test_every_class_has_its_frame_and_its_minutes(tmp_path, arguments):
    page = Page(written(tmp_path, arguments))
    assert "Minutes in each class" in page.text
    frames = [image for image in page.all("img") if image["width"] == "240" and image["height"] == "180"]
    assert len(frames) == 2


def test_the_split_is_told_in_clips_groups_and_classes(tmp_path, arguments):
    arguments["clips"].loc[:2, "status"] = "ok"
    arguments["splits"][1] = pd.Series(["train", "test", "test"], index=arguments["clips"]["clip_id"][:3])
    text = Page(written(tmp_path, arguments)).text
    assert "1 train 1 1 1" in text and "1 test 2 2 2" in text


def test_the_page_lists_what_is_run_for_these_parameters(tmp_path, arguments):
    text = Page(written(tmp_path, arguments)).text
    assert "python -m stages.train --stream temporal --split 1 python -m stages.score --stream spatial" in text


def test_unusable_and_damaged_clips_are_listed_with_their_reasons(tmp_path, arguments):
    arguments["clips"].loc[0, ["status", "reason"]] = ["unreadable", "cut short: 3 of 90"]
    arguments["clips"].loc[1, ["status", "reason"]] = ["ok", "damaged but used: 2 packets"]
    text = Page(written(tmp_path, arguments)).text
    assert "jump/0 unreadable cut short: 3 of 90" in text
    assert "Damaged, but used" in text and "jump/1 ok damaged but used: 2 packets" in text


def test_a_mistake_tells_every_opinion(tmp_path, arguments):
    text = Page(written(tmp_path, arguments)).text
    shown = visible(HOSTILE)
    assert f"is {shown} fusion: jump 99 % spatial: jump 80 % temporal: {shown} 40 % (right)".replace("  ", " ") in text


def test_the_order_of_an_svm_is_not_sold_as_probability(tmp_path, arguments, demo_values):
    values = yaml.safe_load(yaml.safe_dump(demo_values))
    values["fusion"]["method"] = "svm"
    arguments["params"] = parse_params(values)
    text = Page(written(tmp_path, arguments)).text
    assert "99 %" not in text and "80 %" in text


def test_what_is_not_there_is_left_out(tmp_path, arguments):
    arguments |= {"examples": [], "mistake_examples": [], "curves": {}, "mistakes": arguments["mistakes"].head(0)}
    arguments["sweep"] = {1: arguments["sweep"][1].head(0)}
    page = Page(written(tmp_path, arguments))
    identifiers = {attributes.get("id") for _, attributes in page.elements}
    assert not identifiers & {"seen", "training", "mistakes"}
    assert "The weight between the streams" not in page.text


def test_the_same_results_give_the_same_bytes(tmp_path, arguments):
    first = written(tmp_path, arguments)
    assert written(tmp_path, arguments) == first
    assert (tmp_path / "report.html").read_bytes().count(b"\r") == 0


def test_a_failed_report_leaves_the_old_one(tmp_path, arguments):
    before = written(tmp_path, arguments)
    arguments["examples"] = [("x", np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 8, 8, 2), np.float32))]
    with pytest.raises(ValueError, match="film strip"):
        write_report(tmp_path / "report.html", **arguments)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_names_that_are_no_text_can_be_written(tmp_path, arguments):
    arguments["clips"].loc[0, "clip_id"] = "jump/\udcff\ufffe"
    assert "jump/��" in Page(written(tmp_path, arguments)).text


def test_the_parameters_stand_in_the_page_as_they_can_be_read_back(tmp_path, arguments):
    text = re.search(r"<pre[^>]*>(seed:.*?)</pre>", written(tmp_path, arguments), re.S).group(1)
    text = text.replace("&#39;", "'").replace("&#34;", '"').replace("&amp;", "&")
    assert parse_params(yaml.safe_load(text)) == arguments["params"]


def test_a_hundred_classes_still_make_a_page(tmp_path, arguments):
    names = [f"class {number:03d}" for number in range(101)]
    arguments["per_class"] = pd.DataFrame({"class": names, "clips": 1, "spatial": 0.0, "temporal": 1.0, "fusion": 0.5})
    arguments["confusion"] = pd.DataFrame({"actual": names, "predicted": names[1:] + names[:1]})
    html = written(tmp_path, arguments)
    assert len(html) < 2_000_000
    drawn = [svg["aria-label"] for svg in Page(html).all("svg")]
    assert sum("on each of 101 classes" in label for label in drawn) == 3  # each as high as a page, not one of metres


def test_the_report_does_not_import_torch_or_sklearn():
    code = "import sys, twostream.report.page; print(sorted({'torch', 'sklearn', 'timm'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.stdout.strip() == "[]", result.stderr


def test_fused_streams_have_the_colours_of_their_modality_and_no_two_systems_share_one(demo_values):
    params = parse_params(demo_values)
    tokens = stream_tokens(params)
    assert (tokens["spatial"], tokens["temporal"], tokens["fusion"]) == ("rgb", "flow", "fusion")
    assert len(set(tokens.values())) == len(tokens) == 5
    assert list(tokens)[-1] == "fusion"


# text


def test_control_signs_are_pictured_and_deceptive_ones_replaced():
    assert visible("a\nb\tc\x7f") == "a␊b␉c␡"
    assert visible("a\u202eb\u200bc\x85d\udc80e\ufeff") == "a�b�c�d�e�"
    assert visible("ärger 走 😀") == "ärger 走 😀"


def test_shortening_keeps_the_front_and_never_exceeds_the_width():
    assert shorten("abc", 10) == "abc"
    for name in ("a_long_class_name_of_many_words", "走" * 30, "WWWWWWWWWWWW"):
        short = shorten(name, 6)
        assert short.endswith("…") and name.startswith(short[:-1])
        assert width_em(short) <= 6


# charts


def tree(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg))


LEGEND = [("rgb", "s"), ("fusion", "f")]


def drawn(svg: ElementTree.Element) -> list[ElementTree.Element]:
    """The rectangles that are seen."""
    return [rect for rect in svg.findall("rect") if rect.get("class") != "hit"]


def told(svg: ElementTree.Element) -> list[str]:
    """What the areas of rows or of x tell."""
    return [rect.find("title").text for rect in svg.findall("rect") if rect.get("class") == "hit"]


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name)) for name in names]


def test_bars_are_as_long_as_their_values():
    svg = tree(
        charts.bars([charts.Bar("a", [(10, "rgb")], "10"), charts.Bar("b", [(20, "rgb"), (5, "bad")], "25")], label="x")
    )
    first, second, third = drawn(svg)
    assert float(second.get("width")) == pytest.approx(2 * float(first.get("width")), abs=0.2)
    assert float(third.get("x")) == pytest.approx(sum(numbers(second, "x", "width")), abs=0.11)


def test_bars_of_nothing_are_a_chart_too():
    assert not drawn(tree(charts.bars([], label="no rows")))
    assert not drawn(tree(charts.bars([charts.Bar("a", [(0, "rgb")], "0")], label="zero")))


def test_bars_in_parts_share_one_scale():
    rows = [charts.Bar("a", [(10, "rgb")], "10"), charts.Bar("a_longer_name", [(20, "rgb")], "20")]
    (first,), (second,) = (drawn(tree(charts.bars([row], label="x", like=rows))) for row in rows)
    assert float(second.get("width")) == pytest.approx(2 * float(first.get("width")), abs=0.2)
    assert first.get("x") == second.get("x")


@pytest.mark.parametrize(("rows", "parts"), [(0, [0]), (1, [1]), (36, [36]), (37, [19, 18]), (101, [34, 34, 33])])
def test_rows_are_parted_evenly_and_none_is_lost(rows, parts):
    found = charts.parted(list(range(rows)))
    assert [len(part) for part in found] == parts
    assert [row for part in found for row in part] == list(range(rows))


def test_diverging_bars_lie_on_their_side_of_the_line_and_are_as_long_as_their_counts():
    svg = tree(charts.diverging([("a", 2, 6), ("b", 0, 3)], label="x", legend=[("bad", "harmed"), ("fusion", "saved")]))
    zero = float(re.match(r"M([\d.]+) ", svg.findall("path")[-1].get("d")).group(1))
    harmed, saved, other = drawn(svg)
    assert sum(numbers(harmed, "x", "width")) == pytest.approx(zero, abs=0.2)
    assert float(saved.get("x")) == pytest.approx(zero, abs=0.2)
    assert float(saved.get("width")) == pytest.approx(3 * float(harmed.get("width")), abs=0.3)
    assert float(saved.get("width")) == pytest.approx(2 * float(other.get("width")), abs=0.3)


def test_every_row_and_every_x_tells_its_values():
    dots = tree(charts.dots([("a", [0.5, float("nan")]), ("b", [float("nan")] * 2)], label="x", legend=LEGEND))
    assert told(dots) == ["a: s 50.0 %", "b: no test clips"]
    lines = [charts.Line("t", "rgb", [1, 2], [0.25, 0.5], detail="split 1"), charts.Line("v", "flow", [2], [0.75])]
    curve = tree(charts.lines(lines, label="x", x_label="epoch", per_cent=True))
    assert told(curve) == ["epoch 1: t (split 1) 25.0 %", "epoch 2: t (split 1) 50.0 %, v 75.0 %"]
    edges = [numbers(rect, "x", "width") for rect in curve.findall("rect")]
    assert edges[0][0] + edges[0][1] == pytest.approx(edges[1][0], abs=0.2)  # no gap between them


def test_equal_values_do_not_hide_each_other():
    legend = [("extra1", "a"), ("extra2", "b"), ("extra3", "c")]  # all of one shape
    svg = tree(charts.dots([("x", [0.5, 0.5, 0.25])], label="x", legend=legend))
    markers = [path.get("d") for path in svg.findall("path") if path.get("data-series")]
    (x0, y0), (x1, y1), (x2, y2) = (map(float, d[1:].split("h")[0].split()) for d in markers)
    assert x0 == x1 > x2
    assert y1 - y0 >= 6 and y2 == pytest.approx((y0 + y1) / 2)


def test_a_legend_too_long_for_one_line_takes_two_and_covers_nothing():
    entries = [("rgb", "a_long_name_of_a_stream"), ("flow", "another_long_name_of_one"), ("fusion", "fusion")]
    svg = tree(charts.dots([("a", [0.5, 0.4, 0.3])], label="x", legend=entries))
    ys = [float(re.search(r" (\d+)\)", key.get("transform")).group(1)) for key in svg.findall("g")]
    assert len(set(ys)) == 2
    assert max(ys) < min(float(text.get("y")) for text in svg.findall("text"))


def test_hostile_labels_stay_labels_in_every_chart():
    pictures = [
        charts.bars([charts.Bar(HOSTILE, [(1, "rgb")], HOSTILE)], label=HOSTILE, legend=[("rgb", HOSTILE)]),
        charts.diverging([(HOSTILE, 1, 2)], label=HOSTILE, legend=[("bad", HOSTILE), ("fusion", "f")]),
        charts.intervals([charts.Interval(HOSTILE, "rgb", 0.5, 0.4, 0.6)], label=HOSTILE, chance=0.1),
        charts.lines(
            [charts.Line(HOSTILE, "rgb", [1, 2], [1, 2]), charts.Line("b", "flow", [1], [1])],
            label="x",
            x_label=HOSTILE,
        ),
        charts.dots([(HOSTILE, [0.5, 0.2])], label=HOSTILE, legend=[("rgb", HOSTILE), ("fusion", "f")]),
        charts.heatmap([[1, 2], [0, 3]], [HOSTILE, "b"], label=HOSTILE),
    ]
    for svg in pictures:
        assert {element.tag for element in tree(svg).iter()} <= {"svg", "title", "text", "rect", "path", "g"}


def test_a_chart_of_its_own_carries_its_colours():
    svg = charts.standalone(charts.bars([charts.Bar("a", [(1, "rgb")], "1")], label="x"))
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
    said = sorted(rect.find("title").text for rect in svg.findall("rect") if rect.find("title") is not None)
    assert said == ["a → a: 3 of 4", "a → b: 1 of 4", "c → b: 2 of 4", "c → c: 2 of 4"]


def test_labels_of_a_large_heat_map_are_capped_and_told_in_full():
    name = "a_class_with_a_name_that_is_far_too_long"
    svg = tree(charts.heatmap([[1, 0], [0, 1]], [name, "b"], label="x"))
    label = next(text for text in svg.findall("text") if text.find("title") is not None)
    assert label.find("title").text == name and label.find("title").tail.endswith("…")


# film strips


def test_a_strip_takes_frames_from_the_first_to_the_last():
    rgb = np.stack([np.full((48, 64, 3), 10 * place, np.uint8) for place in range(20)])
    strip = film_strip(rgb, np.zeros((19, 24, 32, 2), np.float32))
    assert len(strip.frames) == len(strip.flows) == MOST_FRAMES
    means = [decoded(uri).mean() for uri in strip.frames]
    assert means[0] == pytest.approx(0, abs=2) and means[-1] == pytest.approx(180, abs=2)
    assert means == sorted(means)


def test_the_full_colour_of_a_strip_is_the_speed_of_the_fastest_hundredth():
    flow = np.zeros((2, 100, 100, 2), np.float32)
    flow[:, :2, :, 0] = 7.0  # two in a hundred
    assert film_strip(np.zeros((2, 100, 100, 3), np.uint8), flow).max_px == pytest.approx(7.0)


def test_a_still_clip_is_not_blown_up_into_colour():
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 32, 32, 2)).astype(np.float32)
    strip = film_strip(np.zeros((3, 32, 32, 3), np.uint8), noise)
    assert all(decoded(uri).min() > 220 for uri in strip.flows)


def decoded(uri: str) -> np.ndarray:
    import cv2

    data = np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def test_the_picture_of_examples_has_frames_above_their_flow():
    rgb = np.full((4, 20, 40, 3), 90, np.uint8)
    right = np.zeros((3, 20, 40, 2), np.float32)
    right[..., 0] = 5
    picture = strips_image([("a/b", rgb, right), ("a/c", rgb, -right)], frames=3, width=40)
    assert picture.shape == (4 * 20, 3 * 40, 3)
    assert (picture[:20] == 90).all() and (picture[40:60] == 90).all()
    assert picture[30, 60, 0] > picture[30, 60, 2]  # right is red
    assert picture[70, 60, 2] > picture[70, 60, 0]  # left is cyan
