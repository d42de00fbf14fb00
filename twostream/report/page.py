"""The report page: everything that was measured, in one HTML file that needs no network and contains no date."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup

from twostream.core.files import atomic_path
from twostream.datasets.tables import COPIES, SUBSETS
from twostream.flow.color import color_wheel
from twostream.fusion.evaluation import (
    FUSION,
    best_stream,
    contribution_by_agreement,
    contribution_by_class,
    error_overlap,
)
from twostream.fusion.events import match, stretches_of
from twostream.params import Params
from twostream.report import charts
from twostream.report.explore import Exploration, exploration_charts
from twostream.report.results import Results, software_versions
from twostream.report.strips import Example, film_strip, jpeg_uri
from twostream.report.text import visible

_FEW_CLIPS = 5  # test clips of a class: with fewer, one clip is more than 20 points
_MOST_PAIRS = 15  # confusions listed under the matrix
_MOST_TIMELINES = 20  # stretches of test videos
_COMMANDS = """\
dvc repro                                      # run what has changed
dvc metrics show                               # the numbers of this page
dvc plots show                                 # its curves, confusions and accuracies per class
dvc exp run -S fusion.method=logreg            # change one parameter and run what depends on it
dvc exp show                                   # compare experiments
dvc metrics diff                               # compare with the last commit
"""

Columns = dict[str, Callable[[Any], str]]  # title -> text of a value


class Table(NamedTuple):
    """A sortable table of text."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def is_numeric(self, column: int) -> bool:
        """Return whether all cells of a column are numbers or dashes: it is then right-aligned and sorted by value."""
        cells = [row[column] for row in self.rows]
        return bool(cells) and all(re.fullmatch(r"[+−]?[\d.]+\*?|–", cell) for cell in cells)


class Figure(NamedTuple):
    """A chart in one or more parts, its caption, and its numbers as a table."""

    caption: str
    svgs: Sequence[str]
    table: Table | None = None


def write_report(
    out: Path,
    *,
    params: Params,
    clips: pd.DataFrame,
    splits: dict[int, pd.Series],
    results: Results,
    examples: Sequence[Example],
    mistake_examples: Sequence[Example],
    digests: dict[str, str],
) -> None:
    """Write the report, a self-contained HTML file: the same arguments give the same bytes.

    Args:
        out: the file.
        params: the parameters.
        clips: the table of `clips.csv`.
        splits: split -> subset of each clip, see :func:`twostream.datasets.tables.read_split`.
        results: the results of the earlier stages.
        examples: clips to show as film strips.
        mistake_examples: the same for clips of `results.mistakes`; a mistake without one is listed without frames.
        digests: names of inputs and their MD5.
    """
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=Markup(charts.THEME + charts.STYLE),
            title=f"Two streams on {params.dataset.name}",
            params=params,
            published=_published_table(params.dataset.name),
            subsets=_subset_table(clips, splits),
            unusable=_clip_table("Clips that cannot be used", clips[clips["status"] != "ok"]),
            damaged=_clip_table("Damaged clips in use", clips[(clips["status"] == "ok") & (clips["reason"] != "")]),
            copies=_copies_table(clips, splits),
            **_data_content(results.exploration),
            wheel=jpeg_uri(color_wheel(240), quality=92),
            examples=[(example.clip_id, film_strip(example)) for example in examples],
            **_stream_content(params, results),
            events=results.metrics.get("events"),
            timelines=_timelines(results.events),
            mistakes=_mistakes(params, results.mistakes, mistake_examples),
            commands=_COMMANDS,
            yaml=yaml.safe_dump(params.model_dump(by_alias=True), sort_keys=False, allow_unicode=True, width=100),
            loaded=_loaded_table(results.loaded),
            versions=Table("Software", ("Software", "Version"), list(software_versions().items())),
            digests=Table("Digests of the inputs in dvc.lock", ("Input", "MD5"), list(digests.items())),
        )
    )
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _data_content(exploration: Exploration) -> dict[str, Any]:
    """Return the template's values for the section on the data set."""
    tables, drawn = exploration.tables, exploration_charts(exploration.tables)
    columns: Columns = {"Class": str, "Clips": str, "Seconds": "{:.1f}".format, "Median s": "{:.2f}".format}
    columns |= dict.fromkeys(("Readable", "Unreadable", "Missing"), str)
    classes = _table("Clips per class", columns, tables["classes"])
    durations = _table("Durations", {"Duration": str, "Clips": str}, tables["durations"])
    frames = [(jpeg_uri(frame, quality=85), *frame.shape[1::-1]) for frame in exploration.frames]
    return {
        "summary": exploration.summary,
        "frames": list(zip(tables["classes"]["class"], frames, strict=True)),
        "class_counts": Figure("Clips per class", drawn["classes"], classes),
        "class_minutes": Figure("Minutes per class", drawn["minutes"]),
        "durations": Figure("Durations of the clips", drawn["durations"], durations),
        "resolutions": _table("Resolutions", {"Pixels": str, "Clips": str}, tables["resolutions"]),
        "rates": _table("Frame rates", {"Frames per second": "{:g}".format, "Clips": str}, tables["fps"]),
    }


def _stream_content(params: Params, results: Results) -> dict[str, Any]:
    """Return the template's values for the sections on accuracy, training, fusion and confusion."""
    streams, contribution = params.fusion.streams, results.contribution
    baselines = [name for name in (*params.train.rgb, *params.train.flow) if name not in streams]
    tokens = charts.stream_tokens({name: params.modality(name) for name in streams}, baselines)
    best = best_stream(results.metrics, streams)
    appearance = [name for name in streams if params.modality(name) == "rgb"]
    with_motion = 0 < len(appearance) < len(streams)
    # What motion adds is seen against appearance alone; without streams of both, fusion is compared with the best one.
    reference = appearance[0] if with_motion and best not in appearance else best
    adds, changes = "motion" if with_motion else "fusion", contribution_by_class(contribution, reference)
    return {
        "tokens": tokens,
        "metrics": results.metrics,
        "best": best,
        "test_clips": contribution["clip_id"].nunique(),
        "accuracy": _accuracy_figure(params, results.metrics, tokens, len(results.per_class)),
        "paired": _paired_table(results.metrics),
        "few": _few_clips(results.per_class),
        "training": _training_figures(results.curves, tokens),
        "best_changes": contribution_by_class(contribution, best)[["rescued", "harmed"]].sum(),
        "overlap": error_overlap(contribution, streams),
        "overlap_figure": _overlap_figure(contribution),
        "class_figure": _class_figure(results.per_class, [*streams, FUSION], tokens),
        "adds": adds,
        "reference": reference,
        "changes": changes[["rescued", "harmed"]].sum(),
        "change_figure": _change_figure(changes, reference, adds),
        "weights": _weight_figures(results.weights, tokens),
        "confusion": _confusion_matrix(results.confusion, list(results.per_class["class"])),
        "pairs": _confusion_table(results.confusion),
    }


def _timelines(events: pd.DataFrame) -> list[Figure]:
    """Return a timeline per tested stretch of a video, truth above prediction."""
    figures = []
    for path, start, end, true, predicted in itertools.islice(stretches_of(events), _MOST_TIMELINES):
        name = PurePosixPath(path).name
        right = match(true, predicted)
        tracks = [
            charts.Track("truth", [(*event[:2], event.label, "rgb") for event in true]),
            charts.Track(
                "prediction",
                [
                    (*event[:2], f"{event.label} {_percent(event.confidence)} %", "fusion" if hit else "bad")
                    for event, hit in zip(predicted, right, strict=True)
                ],
            ),
        ]
        svg = charts.timeline(
            tracks, start, end, label=f"{name}: {len(true)} true and {len(predicted)} predicted events"
        )
        figures.append(Figure(f"{name}, {start:.1f} to {end:.1f} s", [svg]))
    return figures


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    script = (Path(__file__).parent / "report.js").read_text(encoding="utf-8")
    environment.globals["script"] = Markup(script)
    # The page's policy allows this script only, whatever a clip's name contains.
    environment.globals["script_digest"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters["lines"] = lambda text: Markup("\n").join(visible(line) for line in text.split("\n"))
    environment.filters["percent"] = _percent
    environment.filters["points"] = _points
    return environment


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _loss(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _points(value: float) -> str:
    """Return a difference of fractions in percentage points, with its sign; zero has none."""
    return f"{100 * value:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0").replace("-", "−")


def _table(caption: str, columns: Columns, frame: pd.DataFrame) -> Table:
    """Return the frame's columns, in order, under other titles, each value as text by its column's function."""
    rows = [
        [text(value) for text, value in zip(columns.values(), row, strict=True)]
        for row in frame.itertuples(index=False, name=None)
    ]
    return Table(caption, list(columns), rows)


def _accuracy_figure(params: Params, metrics: dict[str, Any], tokens: dict[str, str], classes: int) -> Figure:
    interval = f"{100 * params.evaluate.confidence:g} % interval"
    head = ["System", "Input", "Model", "Top-1", interval, "Top-5", "Class mean", "Macro F1", "Std over splits"]
    rows, marks = [], []
    for name, token in tokens.items():
        of = metrics[name]
        if name == FUSION:
            what = [" + ".join(params.fusion.streams), params.fusion.method]
        else:
            stream = params.streams[name]
            source = "rgb difference" if stream.input == "difference" else params.modality(name)
            what = [source, stream.model if stream.tune == "all" else f"{stream.model}, {stream.tune} tuned"]
        numbers = [_percent(of["top1"]), f"{_percent(of['top1_low'])} to {_percent(of['top1_high'])}"]
        numbers += [_percent(of[key]) for key in ("top5", "mean_class_accuracy", "macro_f1", "top1_std")]
        rows.append([name, *what, *numbers])
        marks.append(charts.Interval(name, token, of["top1"], of["top1_low"], of["top1_high"]))
    prior = _percent(metrics["class_prior"]["top1"])
    rows.append(["class prior", "–", "the most frequent class of the training clips", prior, *["–"] * 5])
    if len(params.dataset.splits) == 1:
        head, rows = head[:-1], [row[:-1] for row in rows]
    values = ", ".join(f"{name} {_percent(metrics[name]['top1'])} per cent" for name in tokens)
    svg = charts.intervals(marks, label=f"Top-1 accuracy with its interval: {values}", chance=1 / classes)
    table = Table("Accuracy on the test clips, per cent", head, rows)
    return Figure("Top-1 accuracy on the test clips and its interval", [svg], table)


def _paired_table(metrics: dict[str, Any]) -> Table:
    rows = [
        [pair, _points(of["top1"]), f"{_points(of['low'])} to {_points(of['high'])}"]
        for pair, of in metrics["paired"].items()
    ]
    return Table("Differences of top-1 on the same clips, points", ("Systems", "Difference", "Interval"), rows)


def _few_clips(per_class: pd.DataFrame) -> list[str]:
    """Return the classes that have test clips, but too few to trust their accuracy."""
    few = per_class[(per_class["clips"] > 0) & (per_class["clips"] < _FEW_CLIPS)]
    return few["class"].tolist()


def _published_table(dataset: str) -> Table | None:
    """Return quoted results on a data set: nothing in `published.csv` was measured by this project.

    Accuracies are top-1 in per cent; a `*` marks a number that was not confirmed from a primary source.
    """
    quoted = pd.read_csv(Path(__file__).parent / "published.csv", dtype=str, keep_default_na=False)
    rows = quoted[quoted["dataset"] == dataset].drop(columns="dataset").replace("", "–")
    caption = f"Published on {dataset.upper()}: top-1 in per cent, quoted, not measured here"
    return _table(caption, dict.fromkeys(rows.columns, str), rows) if len(rows) else None


def _subset_table(clips: pd.DataFrame, splits: dict[int, pd.Series]) -> Table:
    readable = clips[clips["status"] == "ok"].set_index("clip_id")
    rows = []
    for number, subset in splits.items():
        assigned = subset.reindex(readable.index)
        for name in SUBSETS:
            part = readable[assigned == name]
            if len(part):
                counts = (len(part), part["group"].nunique(), part["class"].nunique())
                rows.append([str(number), name, *map(str, counts)])
    head = ("Split", "Subset", "Clips", "Groups", "Classes")
    return Table("Readable clips of each subset, with the number of their groups and classes", head, rows)


def _clip_table(caption: str, clips: pd.DataFrame) -> Table:
    return _table(caption, {"Clip": str, "Status": str, "Reason": str}, clips[["clip_id", "status", "reason"]])


def _copies_table(clips: pd.DataFrame, splits: dict[int, pd.Series]) -> Table:
    head = ("Clip", "Shows the video of", "Classes", *(f"Split {number}" for number in splits))
    rows = []
    label = clips.set_index("clip_id")["class"]
    pairs = clips.loc[clips[COPIES] != "", ["clip_id", COPIES]].to_numpy() if COPIES in clips else ()
    for clip, first in pairs:
        classes = dict.fromkeys((label[clip], label[first]))
        sides = [" and ".join(dict.fromkeys((subset[clip], subset[first]))) for subset in splits.values()]
        rows.append([clip, first, " and ".join(classes), *sides])
    return Table("Clips that show the same video, with both classes and both subsets where they differ", head, rows)


def _loaded_table(loaded: dict[str, dict[str, str | None]]) -> Table:
    head = ("Training", "Network", "Weights", "SHA-256", "Licence")
    rows = [
        [run, *(source[key] or "-" for key in ("model", "weights", "sha256")), source["licence"] or "not stated"]
        for run, source in loaded.items()
    ]
    return Table("Loaded weights", head, rows)


def _training_figures(curves: pd.DataFrame, tokens: dict[str, str]) -> dict[str, list[Figure]]:
    """Return each stream's loss and accuracy by epoch, with all splits in one chart, in the order of `tokens`."""
    stream = curves["run"].map(lambda run: run.rsplit("-", 1)[0])
    return {
        name: [_curve_figure(name, curves[stream == name], tokens[name], metric) for metric in ("loss", "top1")]
        for name in tokens
        if (stream == name).any()
    }


def _curve_figure(name: str, curves: pd.DataFrame, token: str, metric: str) -> Figure:
    word, unit, text = {"loss": ("Loss", "", _loss), "top1": ("Top-1", ", %", _percent)}[metric]
    table = curves[["run", "epoch", f"train_{metric}", f"val_{metric}"]]
    table = table.assign(run=curves["run"].map(lambda run: run.rsplit("-", 1)[1]))
    series = []
    for split, curve in table.groupby("run", sort=False):
        detail = f"split {split}" if table["run"].nunique() > 1 else ""
        epochs, train, val = (curve[column].astype(float).tolist() for column in table.columns[1:])
        series.append(charts.Line("training", token, epochs, train, faint=True, detail=detail))
        series.append(charts.Line("validation", token, epochs, val, detail=detail))
    label = f"{word} of {name} by epoch, training and validation"
    svg = charts.lines(series, label=label, x_label="epoch", per_cent=metric == "top1")
    columns: Columns = {"Split": str, "Epoch": "{:g}".format, f"Training{unit}": text, f"Validation{unit}": text}
    return Figure(f"{word} by epoch", [svg], _table(f"{word} of {name} by epoch", columns, table))


def _overlap_figure(contribution: pd.DataFrame) -> Figure:
    table = contribution_by_agreement(contribution)
    words = {"all": "all right", "none": "none right"}
    table["right"] = table["right"].map(lambda names: words.get(names, f"only {names}"))
    table["fusion"] = (table["clips"] * table["fusion"]).round().astype(int)
    total = max(int(table["clips"].sum()), 1)
    rows, description = [], []
    for streams, clips, right in table.itertuples(index=False):
        parts = [(right, "fusion"), (clips - right, "line")]
        rows.append(charts.Bar(streams, parts, f"{clips} ({100 * clips / total:.0f} %)"))
        description.append(f"{streams} {clips} clips, fusion right on {right}")
    svgs = charts.bars(
        rows,
        label="Test clips by the streams that are right: " + "; ".join(description),
        legend=[("fusion", "fusion right"), ("line", "fusion wrong")],
    )
    columns: Columns = {"Streams": str, "Clips": str, "Fusion right": str}
    numbers = _table("Test clips by the streams that are right", columns, table)
    return Figure("Test clips by the streams that are right, and whether fusion is right", svgs, numbers)


def _class_figure(per_class: pd.DataFrame, systems: list[str], tokens: dict[str, str]) -> Figure:
    ordered = per_class.sort_values([FUSION, "class"], ascending=[False, True], na_position="last")
    values = ordered[systems].astype(float)
    svgs = charts.dots(
        list(zip(ordered["class"], values.to_numpy().tolist(), strict=True)),
        label=f"Top-1 accuracy of {', '.join(systems)} on each of {len(ordered)} classes",
        legend=[(tokens[system], system) for system in systems],
    )
    columns: Columns = {"Class": str, "Test clips": str} | dict.fromkeys(
        (f"{system}, %" for system in systems), _percent
    )
    table = _table("Accuracy per class", columns, pd.concat([ordered[["class", "clips"]], values], axis=1))
    return Figure("Accuracy per class, the best fused first", svgs, table)


def _change_figure(changes: pd.DataFrame, reference: str, adds: str) -> Figure | None:
    """Return the clips per class that fusion rescues and harms, compared with one stream; None if there are none."""
    changes = changes[(changes["rescued"] > 0) | (changes["harmed"] > 0)]
    if changes.empty:
        return None
    svgs = charts.diverging(
        list(changes[["class", "harmed", "rescued"]].itertuples(index=False, name=None)),
        label=f"Test clips of {len(changes)} classes that fusion rescues ({changes['rescued'].sum()}) and harms "
        f"({changes['harmed'].sum()}), compared with {reference} alone",
        legend=[("bad", "harmed"), ("fusion", "rescued")],
    )
    columns: Columns = {"Class": str, "Test clips": str, "Rescued": str, "Harmed": str}
    columns["Net"] = lambda net: f"{net:+d}".replace("-", "−")
    table = _table(f"Classes that {adds} changes", columns, changes)
    return Figure(f"Test clips that {adds} rescues and harms, by class", svgs, table)


def _weight_figures(weights: dict[int, pd.DataFrame], tokens: dict[str, str]) -> list[Figure]:
    """Return validation accuracy and log-loss by fusion weight; [] if no split has such a table."""
    table = pd.concat([one.assign(split=split) for split, one in weights.items()])
    if table.empty:
        return []
    streams = table["stream"].unique()
    columns: Columns = {"Split": str, "Stream": str, "Weight": "{:g}".format, "Top-1, %": _percent, "Log-loss": _loss}
    columns["Used"] = lambda chosen: "used" if chosen else ""
    numbers = _table(
        "Validation by fusion weight", columns, table[["split", "stream", "weight", "top1", "nll", "chosen"]]
    )
    figures: list[Figure] = []
    for metric, words in (("top1", "Validation top-1"), ("nll", "Validation log-loss")):
        series = []
        for (split, name), part in table.groupby(["split", "stream"], sort=False):
            mark = int(part["chosen"].to_numpy().argmax()) if part["chosen"].any() else None
            detail = f"split {split}" if table["split"].nunique() > 1 else ""
            x, y = part["weight"].tolist(), part[metric].tolist()
            series.append(charts.Line(name, tokens[name], x, y, mark=mark, detail=detail))
        x_label = f"weight of {streams[0]}" if len(streams) == 1 else "weight of the stream"
        svg = charts.lines(series, label=f"{words} by fusion weight", x_label=x_label, per_cent=metric == "top1")
        figures.append(Figure(words, [svg], None if figures else numbers))
    return figures


def _confusion_matrix(confusion: pd.DataFrame, names: list[str]) -> Markup:
    counts = pd.crosstab(confusion["actual"], confusion["predicted"]).reindex(index=names, columns=names, fill_value=0)
    right = int(np.trace(counts.to_numpy()))
    label = f"Confusion matrix of {len(names)} classes: {right} of {len(confusion)} test clips on the diagonal"
    return charts.heatmap(counts.to_numpy().tolist(), names, label=label)


def _confusion_table(confusion: pd.DataFrame) -> Table:
    wrong = confusion[confusion["actual"] != confusion["predicted"]]
    pairs = wrong.groupby(["actual", "predicted"]).size().rename("number").reset_index()
    pairs = pairs.sort_values(["number", "actual", "predicted"], ascending=[False, True, True]).head(_MOST_PAIRS)
    pairs["share"] = pairs["number"] / pairs["actual"].map(confusion.groupby("actual").size())
    columns: Columns = {"Actual": str, "Predicted": str, "Clips": str, "Of the class, %": _percent}
    return _table("Most frequent confusions", columns, pairs)


def _mistakes(params: Params, mistakes: pd.DataFrame, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return the wrong predictions: each system's prediction with its confidence in per cent, and the frames."""
    strips = {example.clip_id: film_strip(example) for example in examples}
    listed = []
    for row in mistakes.to_dict("records"):
        # The decision values of an SVM are an order, not probabilities.
        confidence = "" if params.fusion.method == "svm" else f"{100 * row['confidence']:.0f} %"
        predictions = [(FUSION, row["predicted"], confidence)]
        for name in params.fusion.streams:
            predictions.append((name, str(row[name]), f"{100 * row[f'{name}_confidence']:.0f} %"))
        listed.append({**row, "predictions": predictions, "strip": strips.get(row["clip_id"])})
    return listed
