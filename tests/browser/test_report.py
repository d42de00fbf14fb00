"""The report in a real browser: drawing, console, sorting, tooltips, small and dark screens, and printing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from twostream.datasets.tables import CLIP_COLUMNS
from twostream.fusion import evaluation
from twostream.fusion.events import COLUMNS
from twostream.fusion.scores import Scores, log_softmax
from twostream.params import parse_params
from twostream.profiles import load_profile
from twostream.report.explore import read_exploration, write_exploration
from twostream.report.page import write_report
from twostream.report.results import Results
from twostream.report.strips import Example

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLASSES = ["climb <b>stairs</b> & a name that is too long for any label", *(f"class_{n:02d}" for n in range(50))]
STREAMS = ["spatial", "temporal"]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """The address of a report of 51 classes, two splits and made-up scores, as the stages would write it."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    names = sorted(CLASSES)
    rows = [
        (f"{name}/{k}", "", name, f"{name}-g{k}", 0, 0.0, 0, 0, "missing", "no file of this name")
        for name in names
        for k in range(4)
    ]
    clips = pd.DataFrame(rows, columns=CLIP_COLUMNS)
    write_exploration(clips, folder, folder / "explore")
    label = np.repeat(np.arange(len(names)), 4)
    everything = {"clip_id": clips["clip_id"].to_numpy(), "label": label, "classes": np.array(names)}
    everything["subset"] = np.full(len(clips), "test")
    scores, fused = {}, {}
    for split in (1, 2):
        logits = [rng.normal(0, 1, (len(clips), len(names))) for _ in STREAMS]
        for one in logits:
            one[np.arange(len(clips)), label] += 2
        scores[split] = {n: Scores(logits=one, **everything) for n, one in zip(STREAMS, logits, strict=True)}
        fused[split] = Scores(logits=sum(map(log_softmax, logits)), **everything)
    values = load_profile("hmdb51")
    values["dataset"]["splits"] = [1, 2]
    values["train"]["rgb"] = ["spatial"]
    epochs = np.arange(1, 6)
    curve = pd.DataFrame({"epoch": epochs, "train_loss": 3 / epochs, "val_loss": 4 / epochs})
    curve = curve.assign(train_top1=1 - 1 / epochs, val_top1=0.8 - 0.8 / epochs)
    weights = np.linspace(0, 1, 21)
    sweep = pd.DataFrame({"stream": "temporal", "weight": weights, "top1": 0.5 + weights * (1 - weights)})
    sweep = sweep.assign(nll=2 - weights * (1 - weights), chosen=weights == 0.5)
    tested = evaluation.select_test_clips(scores, fused)
    groups = clips.set_index("clip_id")["group"]
    metrics = evaluation.evaluate(tested, groups, STREAMS, bootstrap=100, confidence=0.95, seed=0)
    pairs = [("fusion", name) for name in STREAMS]
    metrics["paired"] = evaluation.paired_differences(tested, groups, pairs, bootstrap=100, confidence=0.95, seed=0)
    metrics["class_prior"] = {"top1": 0.5}
    best = evaluation.best_stream(metrics, STREAMS)
    metrics["paired"] = {"fusion - spatial": {"top1": 0.25, "low": 0.1, "high": 0.4}}
    metrics["class_prior"] = {"top1": 0.02}
    mistakes = evaluation.mistakes(tested, STREAMS, limit=2)
    frames = rng.integers(0, 256, (5, 48, 64, 3)).astype(np.uint8)
    motion = rng.normal(0, 2, (5, 48, 64, 2)).astype(np.float32)
    write_report(
        folder / "report.html",
        params=parse_params(values),
        clips=clips,
        splits={n: pd.Series("test", index=clips["clip_id"]) for n in (1, 2)},
        results=Results(
            exploration=read_exploration(folder / "explore"),
            metrics=metrics,
            per_class=evaluation.per_class(tested),
            confusion=evaluation.confusion(tested),
            contribution=evaluation.contribution(tested, STREAMS, best),
            mistakes=mistakes,
            curves=pd.concat([curve.assign(run=f"{name}-{n}") for name in STREAMS for n in (1, 2)]),
            weights={1: sweep, 2: sweep},
            events=pd.DataFrame(columns=COLUMNS),
            loaded={},
        ),
        examples=[Example(names[0] + "/0", frames, motion)],
        mistake_examples=[Example(clip_id, frames, motion) for clip_id in mistakes["clip_id"]],
        digests={"clips": "0"},
    )
    return (folder / "report.html").as_uri()


def eventually(page, true) -> None:
    """Wait until `true()`; Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    for _ in range(100):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("not within five seconds")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_drawn_within_the_width_and_makes_no_request(new_page, seen, report, width, dark):
    page = new_page(width=width, dark=dark)
    page.goto(report)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    boxes = page.evaluate(
        "[...document.querySelectorAll('svg')].map((svg) =>"
        " [svg.getBBox().width, svg.getBBox().height, svg.clientWidth, svg.clientHeight])"
    )
    assert len(boxes) > 15
    assert min(min(width, shown) for width, _, shown, _ in boxes) > 100
    assert min(min(height, shown) for _, height, _, shown in boxes) > 20
    # Everything stays inside its chart: a label that exceeds it would be cut.
    assert page.evaluate(
        "[...document.querySelectorAll('svg')].every((svg) => { const b = svg.getBBox(), v = svg.viewBox.baseVal;"
        " return b.x > -4 && b.y > -4 && b.x + b.width < v.width + 4 && b.y + b.height < v.height + 4; })"
    )
    assert not seen.errors
    assert [url for url in seen.requests if not url.startswith("data:")] == [report]


def test_text_in_charts_stays_legible_on_a_phone(new_page, report):
    page = new_page(width=400)
    page.goto(report)
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('.charts svg text')].map((text) =>"
        " parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))"
    )
    assert smallest >= 10


def test_paper_and_ink_contrast_in_both_schemes(page, report):
    for scheme, dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        page.goto(report)
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).background]"
        )
        ink, paper = (sum(map(int, colour[4:].split(")")[0].split(","))) / 3 for colour in (ink, paper))
        assert (paper < ink) == dark and abs(paper - ink) > 150


def test_a_table_sorts_by_mouse_and_by_keyboard(page, report):
    page.goto(report)
    table = page.locator("table", has=page.get_by_text("Accuracy on the test clips, per cent"))
    column = table.locator("tbody tr td:nth-child(4)")
    head = table.get_by_role("button", name="Top-1")

    def shown():
        return [float(text) for text in column.all_text_contents()]

    head.click()
    assert shown() == sorted(shown(), reverse=True)
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    head.focus()
    page.keyboard.press("Enter")
    assert shown() == sorted(shown()) and len(set(shown())) > 1
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_a_row_shows_its_values_to_the_pointer_and_to_the_arrow_keys(page, report):
    page.goto(report)
    chart = page.locator("svg[aria-label*='on each of 51 classes']").first
    tip = page.locator(".tip[role=status]")
    assert tip.text_content() == ""
    row = chart.locator(".hit").nth(2)
    row.scroll_into_view_if_needed()
    page.wait_for_timeout(200)  # a scroll takes the tip away
    row.hover()
    eventually(page, tip.text_content)
    shown_text = tip.text_content()
    assert "spatial" in shown_text and "fusion" in shown_text and "%" in shown_text
    chart.focus()
    for key in ("Home", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
        eventually(page, lambda: page.locator(".hit.at").count() == 1)
    eventually(page, lambda: tip.text_content() == shown_text)
    page.keyboard.press("Escape")
    assert tip.text_content() == "" and not page.locator(".hit.at").count()


def test_the_confusion_matrix_names_the_cell_under_the_pointer_even_an_empty_one(page, report):
    page.goto(report)
    matrix = page.locator("#confusion svg")
    left, top, cell = (float(n) for n in matrix.get_attribute("data-grid").split())
    matrix.scroll_into_view_if_needed()
    names = sorted(CLASSES)
    empty = page.evaluate(
        "() => { const full = new Set([...document.querySelectorAll('[data-at]')].map((cell) => cell.dataset.at));"
        " for (let c = 0; ; c++) if (!full.has(`3 ${c}`)) return c; }"
    )
    for column in (3, empty):
        matrix.hover(position={"x": left + (column + 0.5) * cell, "y": top + 3.5 * cell})
        shown_text = page.locator(".tip[role=status]").text_content()
        assert shown_text.startswith(f"{names[3]} → {names[column]}: ")
        assert shown_text.endswith("none") == (column == empty)
        assert page.locator("#confusion text.at").count() == 2


def test_a_series_is_picked_in_the_legend_by_mouse_and_by_keyboard(page, report):
    page.goto(report)
    chart = page.locator("svg[aria-label*='on each of 51 classes']").first
    key = chart.get_by_role("button", name="temporal")
    opacity = "(path) => parseFloat(getComputedStyle(path).opacity)"
    other = chart.locator("path[data-series=rgb]:not(.key *)").first
    key.focus()
    page.keyboard.press("Enter")
    assert key.get_attribute("aria-pressed") == "true"
    eventually(page, lambda: other.evaluate(opacity) < 0.3)
    assert chart.locator("path[data-series=flow]:not(.key *)").first.evaluate(opacity) == 1
    key.click()
    assert key.get_attribute("aria-pressed") == "false"


def test_nothing_is_lost_without_scripts(new_page, report):
    page = new_page(java_script_enabled=False)
    page.goto(report)
    assert page.locator("svg.chart").count() > 15
    assert page.locator("svg title").count() > 500  # the browser shows these by itself


def test_it_prints_on_light_paper_with_no_chart_higher_than_a_page(page, report):
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 within its margins
    page.goto(report)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 680
    assert page.evaluate("Math.max(...[...document.querySelectorAll('svg')].map((svg) => svg.clientHeight))") < 1000
    assert page.pdf(format="A4").startswith(b"%PDF")
