import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from twostream.datasets.tables import CLIP_COLUMNS
from twostream.fusion.events import COLUMNS, event_scores, stretches_of
from twostream.params import parse_params
from twostream.report.explore import read_exploration, write_exploration
from twostream.report.page import Table, write_report
from twostream.report.results import Results
from twostream.report.strips import Example
from twostream.report.text import visible

HOSTILE = "<script>alert(1)</script> \"q' & \n\u202e走\x01"


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


def example(clip_id: str, frames: int = 5) -> Example:
    rgb = np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3)).astype(np.uint8)
    return Example(clip_id, rgb, np.ones((frames, 48, 64, 2), np.float32))


@pytest.fixture
def arguments(tmp_path, demo_values) -> dict:
    """A small result, written by hand: two classes, of which one has a hostile name; one unreadable clip."""
    classes = ["jump", HOSTILE]
    rows = [(f"{c}/{k}", "", c, f"g{k}", 0, 0.0, 0, 0, "missing", "no <b>file</b>") for c in classes for k in range(2)]
    clips = pd.DataFrame(rows, columns=CLIP_COLUMNS)
    write_exploration(clips, tmp_path, tmp_path / "explore")
    others = {"top5": 1.0, "top1_low": 0.1, "top1_high": 0.95, "top1_std": 0.02}
    systems = {"spatial": 0.5, "temporal": 0.625, "cnn3d_v2": 0.3, "fusion": 0.75}
    metrics = {
        name: {"top1": top1, "mean_class_accuracy": top1, "macro_f1": top1} | others for name, top1 in systems.items()
    }
    metrics["fusion_gain"] = {"top1": 0.125, "low": -0.0333, "high": 0.2}
    metrics["paired"] = {"fusion - spatial": {"top1": 0.25, "low": 0.1, "high": 0.4}}
    metrics["class_prior"] = {"top1": 0.5}
    per_class = {"class": classes, "clips": [4, 0], "spatial": [0.5, np.nan], "temporal": [0.75, np.nan]}
    confusion = {"actual": ["jump", "jump", HOSTILE, HOSTILE], "predicted": ["jump", "jump", "jump", HOSTILE]}
    contribution = {
        "split": 1,
        "clip_id": ["jump/0", "jump/1", f"{HOSTILE}/0", f"{HOSTILE}/1"],
        "class": ["jump", "jump", HOSTILE, HOSTILE],
        "right": ["all", "spatial", "temporal", "none"],
        "fusion": [True, True, False, True],
        "effect": ["same", "rescued", "harmed", "rescued"],
    }
    mistake = {"split": 1, "clip_id": f"{HOSTILE}/0", "actual": HOSTILE, "predicted": "jump", "confidence": 0.987}
    mistake |= {"spatial": "jump", "spatial_confidence": 0.8, "temporal": HOSTILE, "temporal_confidence": 0.4}
    curves = {"run": "spatial-1", "epoch": [1, 2], "train_loss": [1.5, 1.0], "val_loss": [1.6, np.nan]}
    curves |= {"train_top1": [0.2, 0.4], "val_top1": [0.3, np.nan]}
    weights = {"stream": "temporal", "weight": [0.0, 0.5, 1.0], "top1": [0.5, 0.8, 0.6], "nll": [1.0, 0.5, 0.9]}
    return {
        "params": parse_params(demo_values),
        "clips": clips,
        "splits": {1: pd.Series("test", index=clips["clip_id"], name="subset")},
        "results": Results(
            exploration=read_exploration(tmp_path / "explore"),
            metrics=metrics,
            per_class=pd.DataFrame(per_class | {"fusion": [1.0, np.nan]}),
            confusion=pd.DataFrame(confusion),
            contribution=pd.DataFrame(contribution),
            mistakes=pd.DataFrame([mistake]),
            curves=pd.DataFrame(curves),
            weights={1: pd.DataFrame(weights).assign(chosen=[False, True, False])},
            events=pd.DataFrame(columns=COLUMNS),
            loaded={"spatial-1": {"model": "i3d", "weights": "pretrained", "sha256": "cafe", "licence": "Apache-2.0"}},
        ),
        "examples": [example("jump/0")],
        "mistake_examples": [example(f"{HOSTILE}/0")],
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


def test_every_chart_has_a_description(tmp_path, arguments):
    charts_ = [a for a in Page(written(tmp_path, arguments)).all("svg")]
    described = " ".join(svg["aria-label"] for svg in charts_)
    for words in ("Clips in", "Minutes", "Durations", "Loss", "Top-1 of", "fusion weight", "Confusion", "harms"):
        assert words in described
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 10 for svg in charts_)


def test_the_results_are_per_cents_with_their_intervals_and_the_gain(tmp_path, arguments):
    text = Page(written(tmp_path, arguments)).text
    assert "classifies 75.0 % of 4 test clips correctly, 12.5 points more than temporal, its best stream" in text
    assert "−3.3 to +20.0 points" in text
    assert "do not show that fusion helps" in text
    assert "cnn3d_v2 rgb cnn3d_v2 30.0 10.0 to 95.0 100.0 30.0" in text
    assert "fusion spatial + temporal weighted 75.0" in text


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.01, 0.2, "fusion helps"), (-0.2, -0.01, "fusion harms")])
def test_the_verdict_follows_the_interval(tmp_path, arguments, low, high, verdict):
    arguments["results"].metrics["fusion_gain"].update(low=low, high=high)
    assert f"on clips like these, {verdict}." in Page(written(tmp_path, arguments)).text


def test_the_spread_over_splits_is_shown_only_for_several_splits(tmp_path, arguments, demo_values):
    assert "Std over splits" not in written(tmp_path, arguments)
    demo_values = yaml.safe_load(yaml.safe_dump(demo_values))
    demo_values["dataset"]["splits"] = [1, 2]
    arguments["params"] = parse_params(demo_values)
    assert "Std over splits" in written(tmp_path, arguments)


def test_published_numbers_are_those_of_the_data_set(tmp_path, arguments, demo_values):
    assert "Simonyan" not in written(tmp_path, arguments)
    values = yaml.safe_load(yaml.safe_dump(demo_values))
    texts = {}
    for name in ("hmdb51", "ucf101"):
        values["dataset"]["name"] = name
        arguments["params"] = parse_params(values)
        texts[name] = Page(written(tmp_path, arguments)).text
        assert "quoted, not measured here" in texts[name]
    assert "Two-Stream ImageNet (spatial) 1, 2, 3 40.5* 54.6* 59.4 Simonyan & Zisserman" in texts["hmdb51"]
    assert "I3D ImageNet + Kinetics 1 74.8 77.1* 80.7" in texts["hmdb51"] and "68.5*" in texts["hmdb51"]
    assert "Two-Stream ImageNet (spatial) 1, 2, 3 73.0* 83.7* 88.0 Simonyan & Zisserman" in texts["ucf101"]


def test_motion_is_measured_against_appearance_even_where_motion_is_the_best_stream(tmp_path, arguments):
    """By hand: of the four clips fusion rescues jump/0's class not at all; spatial alone fails on the two of the other
    class, of which fusion gets one (none right) and not the other (temporal right)."""
    arguments["results"].metrics["temporal"]["top1"] = 0.9
    text = Page(written(tmp_path, arguments)).text
    assert "Rescued: fusion is right where spatial alone is wrong." in text
    assert "In total, 1 clips are rescued and 0 harmed." in text


def test_the_overlap_of_errors_is_compared_with_chance(tmp_path, arguments):
    """Right are: both, spatial, temporal, none. Each errs on two of four, so by chance both on 4 * 1/2 * 1/2 = 1."""
    text = Page(written(tmp_path, arguments)).text
    assert "spatial is wrong on 2 clips, temporal is wrong on 2 clips; both are wrong on 1." in text
    assert "1.0 would be expected." in text and "would reach 75.0 %" in text


def test_every_class_has_its_frame_and_its_minutes(tmp_path, arguments):
    page = Page(written(tmp_path, arguments))
    assert "Minutes per class" in page.text
    frames = [image for image in page.all("img") if image["width"] == "240" and image["height"] == "180"]
    assert len(frames) == 2


def test_a_split_is_described_by_clips_groups_and_classes(tmp_path, arguments):
    arguments["clips"].loc[:2, "status"] = "ok"
    arguments["splits"][1] = pd.Series(["train", "test", "test"], index=arguments["clips"]["clip_id"][:3])
    text = Page(written(tmp_path, arguments)).text
    assert "1 train 1 1 1" in text and "1 test 2 2 2" in text


def test_unusable_and_damaged_clips_are_listed_with_their_reasons(tmp_path, arguments):
    arguments["clips"].loc[0, ["status", "reason"]] = ["unreadable", "cut short: 3 of 90"]
    arguments["clips"].loc[1, ["status", "reason"]] = ["ok", "damaged but used: 2 packets"]
    text = Page(written(tmp_path, arguments)).text
    assert "jump/0 unreadable cut short: 3 of 90" in text
    assert "Damaged clips that are used" in text and "jump/1 ok damaged but used: 2 packets" in text


def test_loaded_weights_are_listed_with_their_licence(tmp_path, arguments):
    page = written(tmp_path, arguments)
    assert "i3d" in page and "cafe" in page and "Apache-2.0" in page and "not stated" not in page
    arguments["results"] = arguments["results"]._replace(loaded={})
    assert "Licence" not in written(tmp_path, arguments)


def test_copies_of_a_video_are_listed_with_their_classes_and_subsets(tmp_path, arguments):
    assert "Clips that show the same video" not in Page(written(tmp_path, arguments)).text
    clips = arguments["clips"].assign(copy_of="")
    first, other = clips["clip_id"].iloc[[0, -1]]
    clips.loc[len(clips) - 1, "copy_of"] = first
    text = Page(written(tmp_path, {**arguments, "clips": clips})).text
    classes = dict.fromkeys(clips.set_index("clip_id")["class"][[other, first]])
    subsets = dict.fromkeys(arguments["splits"][1][[other, first]])
    shown = [visible(other), visible(first), " and ".join(map(visible, classes)), " and ".join(subsets)]
    assert " ".join(" ".join(shown).split()) in " ".join(text.split())


def test_an_error_lists_every_prediction(tmp_path, arguments):
    text = Page(written(tmp_path, arguments)).text
    shown = visible(HOSTILE)
    assert (
        f"actual: {shown} fusion: jump 99 % spatial: jump 80 % temporal: {shown} 40 % (right)".replace("  ", " ")
        in text
    )


def test_the_decision_values_of_an_svm_are_not_shown_as_probabilities(tmp_path, arguments, demo_values):
    values = yaml.safe_load(yaml.safe_dump(demo_values))
    values["fusion"]["method"] = "svm"
    arguments["params"] = parse_params(values)
    text = Page(written(tmp_path, arguments)).text
    assert "99 %" not in text and "80 %" in text


def test_sections_without_content_are_left_out(tmp_path, arguments):
    results = arguments["results"]
    nothing = {name: getattr(results, name).head(0) for name in ("curves", "mistakes")}
    results = results._replace(**nothing, weights={1: results.weights[1].head(0)})
    arguments |= {"examples": [], "mistake_examples": [], "results": results}
    page = Page(written(tmp_path, arguments))
    identifiers = {attributes.get("id") for _, attributes in page.elements}
    assert not identifiers & {"seen", "training", "errors"}
    assert "Fusion weights" not in page.text


def test_the_same_results_give_the_same_bytes(tmp_path, arguments):
    first = written(tmp_path, arguments)
    assert written(tmp_path, arguments) == first
    assert (tmp_path / "report.html").read_bytes().count(b"\r") == 0


def test_a_failed_report_leaves_the_old_one(tmp_path, arguments):
    before = written(tmp_path, arguments)
    arguments["examples"] = [None]
    with pytest.raises(AttributeError):
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
    arguments["results"] = arguments["results"]._replace(
        per_class=pd.DataFrame({"class": names, "clips": 1, "spatial": 0.0, "temporal": 1.0, "fusion": 0.5}),
        confusion=pd.DataFrame({"actual": names, "predicted": names[1:] + names[:1]}),
    )
    html = written(tmp_path, arguments)
    assert len(html) < 2_000_000
    drawn = [svg["aria-label"] for svg in Page(html).all("svg")]
    assert sum("on each of 101 classes" in label for label in drawn) == 3  # each as high as a page, not one of metres


@pytest.mark.slow
def test_the_report_does_not_import_torch_or_sklearn():
    code = "import sys, twostream.report.page; print(sorted({'torch', 'sklearn', 'timm'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.stdout.strip() == "[]", result.stderr


def test_a_column_is_numeric_where_all_its_cells_are_numbers_or_dashes():
    table = Table("x", "abcde", [["1", "−3.5", "40.5*", "–", "1, 2"], ["2.0", "+1", "–", "7", "3"]])
    assert [table.is_numeric(column) for column in range(5)] == [True, True, True, True, False]


def test_timelines_show_the_truth_above_the_prediction(arguments, tmp_path):
    rows = [
        [1, "untrimmed/day.mp4", 0.0, 60.0, "truth", 10.0, 20.0, HOSTILE, 1.0],
        [1, "untrimmed/day.mp4", 0.0, 60.0, "predicted", 11.0, 20.0, HOSTILE, 0.9],
        [1, "untrimmed/day.mp4", 0.0, 60.0, "predicted", 30.0, 40.0, "jump", 0.5],
    ]
    events = pd.DataFrame(rows, columns=COLUMNS)
    scores = event_scores([(true, predicted) for *_, true, predicted in stretches_of(events)])
    results = arguments["results"]._replace(events=events, metrics={**arguments["results"].metrics, "events": scores})
    write_report(tmp_path / "report.html", **{**arguments, "results": results})
    page = (tmp_path / "report.html").read_text()
    assert "F1 is 66.7 %, precision 50.0 % and recall 100.0 %" in page
    assert "day.mp4, 0.0 to 60.0 s" in page
    chart = page[page.index("day.mp4: 1 true and 2 predicted events") :]
    assert chart.index(">truth<") < chart.index(">prediction<")
    assert "prediction: jump 50.0 %, 30.00 to 40.00 s" in chart
