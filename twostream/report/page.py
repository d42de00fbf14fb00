"""The report page: everything that was measured, in one HTML file that needs no network and tells no date."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup

from twostream.datasets.tables import SUBSETS
from twostream.fusion.evaluation import FUSION, contribution_by_agreement, contribution_by_class, error_overlap
from twostream.params import Params
from twostream.report import charts, explore
from twostream.report.published import BY_DATASET
from twostream.report.strips import Strip, film_strip, jpeg_uri, wheel_uri
from twostream.report.text import visible

Example = tuple[str, np.ndarray, np.ndarray]

_MOST_PAIRS = 15  # confusions listed under the matrix
_COMMANDS = """\
dvc repro                                      # run what has changed
dvc metrics show                               # the numbers of this page
dvc plots show                                 # its curves, confusions and accuracies of classes
dvc exp run -S fusion.method=logreg            # change one parameter, run what it touches
dvc exp show                                   # compare experiments
dvc metrics diff                               # compare with the last commit
"""


class Table(NamedTuple):
    """A sortable table: `head` are titles, those in `numbers` stand right and sort by value; cells are text."""

    caption: str
    head: Sequence[str]
    numbers: Sequence[str]
    rows: Sequence[Sequence[str]]


class Figure(NamedTuple):
    """A chart in one or more parts, what it shows, and its numbers as a table."""

    caption: str
    svgs: Sequence[str]
    table: Table | None


def write_report(
    out: Path,
    *,
    params: Params,
    clips: pd.DataFrame,
    splits: dict[int, pd.Series],
    explore_dir: Path,
    metrics: dict[str, Any],
    per_class: pd.DataFrame,
    confusion: pd.DataFrame,
    sweep: dict[int, pd.DataFrame],
    curves: dict[str, pd.DataFrame],
    contribution: pd.DataFrame,
    mistakes: pd.DataFrame,
    examples: Sequence[Example],
    mistake_examples: Sequence[Example],
    versions: dict[str, str],
    digests: dict[str, str],
) -> None:
    """Write the report, a self-contained HTML file: the same arguments give the same bytes.

    Args:
        out: the file; it appears whole or not at all.
        params: the parameters in force.
        clips: the table of `clips.csv`.
        splits: split -> subset of each clip, as :func:`twostream.datasets.tables.read_split` gives it.
        explore_dir: the folder that :func:`twostream.report.explore.explore` wrote.
        metrics: what :func:`twostream.fusion.evaluation.evaluate` returned; more keys do no harm.
        per_class, confusion, contribution, mistakes: tables of the functions in `twostream.fusion.evaluation`.
        sweep: split -> table of :func:`twostream.fusion.methods.weight_curve`.
        curves: `<stream>-<split>` -> one row an epoch: `epoch`, `train_loss`, `val_loss`, `train_top1`, `val_top1`.
        examples: clips to show as film strips: clip id, uint8 [T, H, W, 3] RGB frames, and the flow from each,
            float32 [T or T - 1, h, w, 2] in pixels.
        mistake_examples: the same for clips of `mistakes`; a mistake without one is told in words only.
        versions: software -> version, shown as they are.
        digests: what -> digest, shown as they are.

    Raises:
        UserError: the exploration is missing or damaged.
    """
    tokens = stream_tokens(params)
    summary, tables, sheet = explore.load_exploration(explore_dir)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=Markup(charts.THEME + charts.STYLE),
            params=params,
            title=f"Two streams on {params.dataset.name}",
            headline=_headline(params, metrics, contribution),
            tokens=tokens,
            results=_results(params, metrics, tokens, len(per_class)),
            published=_published(params),
            summary=summary,
            data=_data(tables),
            frames=_frames(tables["classes"], sheet),
            subsets=_subsets(clips, splits),
            unusable=_clips_with_reasons(clips[clips["status"] != "ok"], "Clips that cannot be used"),
            damaged=_clips_with_reasons(
                clips[(clips["status"] == "ok") & (clips["reason"] != "")], "Damaged clips in use"
            ),
            wheel=wheel_uri(),
            examples=[(clip_id, film_strip(rgb, flow)) for clip_id, rgb, flow in examples],
            training=_training(curves, tokens),
            contributions=_contributions(params, per_class, contribution, tokens, _best(params, metrics)),
            sweep=_sweep(sweep, tokens),
            confusion=_confusion(confusion, list(per_class["class"])),
            pairs=_pairs(confusion),
            mistakes=_mistakes(params, mistakes, mistake_examples),
            yaml=yaml.safe_dump(params.model_dump(by_alias=True), sort_keys=False, allow_unicode=True, width=100),
            versions=Table("Software", ("Software", "Version"), (), [[n, str(v)] for n, v in versions.items()]),
            digests=Table("Digests of what went in", ("What", "Digest"), (), [[n, str(d)] for n, d in digests.items()]),
            commands=_COMMANDS,
            made_by=_made_by(params),
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".part")
    beside.write_text(page, encoding="utf-8", newline="\n")
    os.replace(beside, out)


def stream_tokens(params: Params) -> dict[str, str]:
    """The chart token of each stream, then of `fusion`: the first fused stream of a modality has its colour."""
    tokens: dict[str, str] = {}
    others = 0
    baselines = [name for name in (*params.train.rgb, *params.train.flow) if name not in params.fusion.streams]
    for name in (*params.fusion.streams, *baselines):
        modality = params.modality(name)
        if name in params.fusion.streams and modality not in tokens.values():
            tokens[name] = modality
        else:
            tokens[name] = f"extra{others % 4 + 1}"
            others += 1
    return tokens | {FUSION: "fusion"}


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
    # Only this script may run, whatever a clip is called.
    environment.globals["script_digest"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters["lines"] = lambda text: Markup("\n").join(visible(line) for line in text.split("\n"))
    environment.filters["percent"] = _percent
    environment.filters["points"] = _points
    return environment


def _percent(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign; nothing is never negative."""
    return f"{100 * value:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0").replace("-", "−")


def _headline(params: Params, metrics: dict[str, Any], contribution: pd.DataFrame) -> dict[str, Any]:
    fused = params.fusion.streams
    best = _best(params, metrics)
    gain = metrics["fusion_gain"]
    if gain["low"] > 0:
        verdict = "The interval of the gain is above zero: on clips like these, fusion helps."
    elif gain["high"] < 0:
        verdict = "The interval of the gain is below zero: on clips like these, fusion harms."
    else:
        verdict = "The interval of the gain holds zero: these test clips do not show that fusion helps."
    size = f"{abs(100 * gain['top1']):.1f}"
    where = "above" if gain["top1"] > 0 else "below"
    return {
        "best": best,
        "difference": "level with" if size == "0.0" else f"{size} points {where}",
        "gain": gain,
        "verdict": verdict,
        "streams": [(name, metrics[name]) for name in (*fused, FUSION)],
        "tests": contribution["clip_id"].nunique(),
        "several": len(params.dataset.splits) > 1,
    }


def _best(params: Params, metrics: dict[str, Any]) -> str:
    """The best fused stream, of equal ones the first: the one that the gain is measured against."""
    return max(params.fusion.streams, key=lambda name: metrics[name]["top1"])


def _results(params: Params, metrics: dict[str, Any], tokens: dict[str, str], classes: int) -> Figure:
    names = [*tokens][:-1] + [FUSION]
    several = len(params.dataset.splits) > 1
    head = [
        "System",
        "Reads",
        "Model",
        "Top-1",
        f"{100 * params.evaluate.confidence:g} % interval",
        "Top-5",
        "Class mean",
    ]
    rows = []
    for name in names:
        of = metrics[name]
        if name == FUSION:
            what = [" + ".join(params.fusion.streams), params.fusion.method]
        else:
            what = [params.modality(name), params.streams[name].model]
        numbers = [_percent(of["top1"]), f"{_percent(of['top1_low'])} to {_percent(of['top1_high'])}"]
        numbers += [_percent(of["top5"]), _percent(of["mean_class_accuracy"])]
        rows.append([name, *what, *numbers, *([_percent(of["top1_std"])] if several else [])])
    head += ["Std over splits"] if several else []
    svg = charts.intervals(
        [
            charts.Interval(
                name, tokens[name], metrics[name]["top1"], metrics[name]["top1_low"], metrics[name]["top1_high"]
            )
            for name in names
        ],
        label="Top-1 accuracy with its interval: "
        + ", ".join(f"{name} {_percent(metrics[name]['top1'])} per cent" for name in names),
        chance=1 / classes,
    )
    table = Table("Accuracy on the test clips, per cent", head, [t for t in head[3:] if "interval" not in t], rows)
    return Figure("Top-1 accuracy on the test clips and its interval", [svg], table)


def _published(params: Params) -> Table | None:
    if params.dataset.name not in BY_DATASET:
        return None
    dataset, quoted = BY_DATASET[params.dataset.name]
    rows = [
        [q.system, q.pretraining, q.splits or "–", q.rgb or "–", q.flow or "–", q.fused or "–", q.source]
        for q in quoted
    ]
    head = ("System", "Pretrained on", "Splits", "RGB", "Flow", "Fused", "Quoted from")
    return Table(f"Published on {dataset}: top-1 in per cent, quoted, not measured here", head, head[3:6], rows)


def _data(tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    drawn = explore.charts(tables["classes"], tables["durations"])
    head = ("Class", "Clips", "Seconds", "Median s", "Readable", "Unreadable", "Missing")
    classes = Table(
        "Clips of each class",
        head,
        head[1:],
        [
            [str(row[0]), str(row[1]), f"{row[2]:.1f}", f"{row[3]:.2f}", *map(str, row[4:])]
            for row in tables["classes"].itertuples(index=False)
        ],
    )
    durations = _counts("Durations", "Duration", tables["durations"])
    return {
        "classes": Figure("Clips in each class", drawn["classes"], None),
        "minutes": Figure("Minutes in each class", drawn["minutes"], None),
        "table": classes,
        "durations": Figure("How long the clips are", drawn["durations"], durations),
        "resolutions": _counts("Resolutions", "Pixels", tables["resolutions"]),
        "fps": _counts("Frame rates", "Frames a second", tables["fps"]),
    }


def _frames(classes: pd.DataFrame, sheet: bytes) -> list[tuple[str, str, int, int]]:
    """The frame of each class as a data URI, with its size: a picture each, for the class to stand under it as text."""
    return [
        (name, jpeg_uri(frame, quality=85), frame.shape[1], frame.shape[0])
        for name, frame in zip(classes["class"], explore.sheet_frames(sheet, len(classes)), strict=True)
    ]


def _subsets(clips: pd.DataFrame, splits: dict[int, pd.Series]) -> Table:
    readable = clips[clips["status"] == "ok"].set_index("clip_id")
    rows = []
    for number, subset in splits.items():
        assigned = subset.reindex(readable.index)
        for name in SUBSETS:
            part = readable[assigned == name]
            if len(part):
                rows.append(
                    [str(number), name, str(len(part)), *(str(part[of].nunique()) for of in ("group", "class"))]
                )
    head = ("Split", "Subset", "Clips", "Groups", "Classes")
    return Table(
        "Readable clips of each subset, and the groups and classes they are of", head, (head[0], *head[2:]), rows
    )


def _counts(caption: str, title: str, table: pd.DataFrame) -> Table:
    rows = [
        [f"{what:g}" if isinstance(what, float) else str(what), str(clips)]
        for what, clips in table.itertuples(index=False)
    ]
    return Table(caption, (title, "Clips"), ("Clips",), rows)


def _clips_with_reasons(clips: pd.DataFrame, caption: str) -> Table:
    rows = clips[["clip_id", "status", "reason"]].to_numpy().tolist()
    return Table(caption, ("Clip", "Status", "Reason"), (), rows)


def _training(curves: dict[str, pd.DataFrame], tokens: dict[str, str]) -> list[tuple[str, list[Figure]]]:
    """Each stream's loss and accuracy by epoch, its splits on top of each other, in the order of `tokens`."""
    by_stream: dict[str, dict[str, pd.DataFrame]] = {}
    for run, curve in curves.items():
        stream, split = run.rsplit("-", 1)
        by_stream.setdefault(stream, {})[split] = curve
    return [
        (name, [_curve_figure(name, by_stream[name], tokens[name], what) for what in ("loss", "top1")])
        for name in tokens
        if name in by_stream
    ]


def _curve_figure(name: str, curves: dict[str, pd.DataFrame], token: str, what: str) -> Figure:
    words = {"loss": "Loss", "top1": "Top-1"}[what]
    series, rows = [], []
    for split, curve in curves.items():
        epochs = curve["epoch"].tolist()
        validation = curve[f"val_{what}"].astype(float).tolist()
        top1 = curve["val_top1"].astype(float)
        mark = int(top1.fillna(-1).to_numpy().argmax()) if len(top1) else None
        training = curve[f"train_{what}"].astype(float).tolist()
        detail = f"split {split}" if len(curves) > 1 else ""
        series.append(charts.Line("training", token, epochs, training, faint=True, detail=detail))
        series.append(charts.Line("validation", token, epochs, validation, mark=mark, detail=detail))
        rows += [
            [split, f"{row.epoch:g}", *(_number(getattr(row, f"{subset}_{what}"), what) for subset in ("train", "val"))]
            for row in curve.itertuples(index=False)
        ]
    unit = ", %" if what == "top1" else ""
    head = ("Split", "Epoch", f"Training{unit}", f"Validation{unit}")
    svg = charts.lines(
        series,
        label=f"{words} of {name} by epoch, training and validation",
        x_label="epoch",
        per_cent=what == "top1",
    )
    return Figure(f"{words} by epoch", [svg], Table(f"{words} of {name} by epoch", head, head, rows))


def _number(value: float, what: str) -> str:
    if pd.isna(value):
        return "–"
    return _percent(value) if what == "top1" else f"{value:.3f}"


def _contributions(
    params: Params, per_class: pd.DataFrame, contribution: pd.DataFrame, tokens: dict[str, str], best: str
) -> dict[str, Any]:
    agreement = contribution_by_agreement(contribution)
    total = max(int(agreement["clips"].sum()), 1)
    words = {"all": "all right", "none": "none right"}
    overlap = [
        (words.get(right, f"only {right}"), int(clips), round(clips * fusion))
        for right, clips, fusion in agreement.itertuples(index=False)
    ]
    overlap_svg = charts.bars(
        [
            charts.Bar(who, [(saved, "fusion"), (clips - saved, "line")], f"{clips} ({100 * clips / total:.0f} %)")
            for who, clips, saved in overlap
        ],
        label="Test clips by which streams are right: "
        + "; ".join(f"{who} {clips} clips, of which fusion gets {saved}" for who, clips, saved in overlap),
        legend=[("fusion", "fusion right"), ("line", "fusion wrong")],
    )
    overlap_table = Table(
        "Test clips by which streams are right",
        ("Streams", "Clips", "Fusion right"),
        ("Clips", "Fusion right"),
        [[who, str(clips), str(saved)] for who, clips, saved in overlap],
    )
    systems = [*params.fusion.streams, FUSION]
    ordered = per_class.sort_values([FUSION, "class"], ascending=[False, True], na_position="last")
    by_class = [(row["class"], [float(row[system]) for system in systems]) for row in ordered.to_dict("records")]
    dots = [
        charts.dots(
            part,
            label=f"Top-1 accuracy of {', '.join(systems)} on each of {len(ordered)} classes",
            legend=[(tokens[system], system) for system in systems],
            like=by_class,
        )
        for part in charts.parted(by_class)
    ]
    titles = ("Class", "Test clips", *(f"{system}, %" for system in systems))
    class_table = Table(
        "Accuracy of each class",
        titles,
        titles[1:],
        [
            [row["class"], str(row["clips"]), *(_percent(row[system]) for system in systems)]
            for row in ordered.to_dict("records")
        ],
    )
    changes = contribution_by_class(contribution, best)
    return {
        "overlap": Figure("Who is right, and what fusion makes of it", [overlap_svg], overlap_table),
        "classes": Figure("Accuracy of each class, best fused first", dots, class_table),
        "errors": error_overlap(contribution, params.fusion.streams),
        "motion": _motion(params, contribution, best),
        "rescued": int(changes["rescued"].sum()),
        "harmed": int(changes["harmed"].sum()),
    }


def _motion(params: Params, contribution: pd.DataFrame, best: str) -> dict[str, Any]:
    """What the fusion changes in each class against appearance alone; without streams of both, against the best."""
    modalities = {name: params.modality(name) for name in params.fusion.streams}
    appearance = [name for name, modality in modalities.items() if modality == "rgb"]
    with_motion = bool(appearance) and len(appearance) < len(modalities)
    against = (best if best in appearance else appearance[0]) if with_motion else best
    changes = contribution_by_class(contribution, against)
    changes = changes[(changes["rescued"] > 0) | (changes["harmed"] > 0)]
    rows = [(row["class"], row["harmed"], row["rescued"]) for row in changes.to_dict("records")]
    rescued, harmed = int(changes["rescued"].sum()), int(changes["harmed"].sum())
    head = ("Class", "Test clips", "Rescued", "Harmed", "Net")
    table = Table(
        f"Classes that {'motion' if with_motion else 'fusion'} changes",
        head,
        head[1:],
        [
            [
                row["class"],
                *(str(row[key]) for key in ("clips", "rescued", "harmed")),
                f"{row['net']:+d}".replace("-", "−"),
            ]
            for row in changes.to_dict("records")
        ],
    )
    svgs = [
        charts.diverging(
            part,
            label=f"Test clips of {len(rows)} classes that fusion rescues ({rescued}) and harms ({harmed}), "
            f"compared with {against} alone",
            legend=[("bad", "harmed"), ("fusion", "rescued")],
            like=rows,
        )
        for part in charts.parted(rows)
        if rows
    ]
    what = "Motion" if with_motion else "Fusion"
    return {
        "what": what,
        "against": against,
        "rescued": rescued,
        "harmed": harmed,
        "figure": Figure(f"Test clips that {what.lower()} rescues and harms, by class", svgs, table) if rows else None,
    }


def _sweep(sweep: dict[int, pd.DataFrame], tokens: dict[str, str]) -> dict[str, Any] | None:
    """Validation accuracy and log-loss by fusion weight; None where no split has such a table."""
    tables = {split: table for split, table in sweep.items() if len(table)}
    if not tables:
        return None
    streams = list(dict.fromkeys(name for table in tables.values() for name in table["stream"]))
    parts = [(split, name, table[table["stream"] == name]) for split, table in tables.items() for name in streams]
    parts = [part for part in parts if len(part[2])]
    one = f"weight of {streams[0]}" if len(streams) == 1 else "weight of the stream"
    figures = []
    for column, words in (("top1", "Validation top-1"), ("nll", "Validation log-loss")):
        series = [
            charts.Line(
                name,
                tokens[name],
                part["weight"].tolist(),
                part[column].tolist(),
                mark=int(part["chosen"].to_numpy().argmax()) if part["chosen"].any() else None,
                detail=f"split {split}" if len(tables) > 1 else "",
            )
            for split, name, part in parts
        ]
        svg = charts.lines(series, label=f"{words} by fusion weight", x_label=one, per_cent=column == "top1")
        figures.append(Figure(words, [svg], None))
    head = ("Split", "Stream", "Weight", "Top-1, %", "Log-loss", "Chosen")
    rows = [
        [str(split), name, f"{row.weight:g}", _percent(row.top1), f"{row.nll:.3f}", "chosen" if row.chosen else ""]
        for split, name, part in parts
        for row in part.itertuples(index=False)
    ]
    return {
        "figures": figures,
        "chosen": any(part["chosen"].any() for _, _, part in parts),
        "table": Table("Validation by fusion weight", head, ("Split", "Weight", "Top-1, %", "Log-loss"), rows),
    }


def _confusion(confusion: pd.DataFrame, classes: Iterable[str]) -> str:
    names = list(classes)
    place = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (confusion["actual"].map(place).to_numpy(), confusion["predicted"].map(place).to_numpy()), 1)
    right = int(np.trace(counts))
    return charts.heatmap(
        counts.tolist(),
        names,
        label=f"Confusion matrix of {len(names)} classes: {right} of {len(confusion)} test clips on the diagonal",
    )


def _pairs(confusion: pd.DataFrame) -> Table:
    wrong = confusion[confusion["actual"] != confusion["predicted"]]
    clips = confusion.groupby("actual").size()
    pairs = wrong.groupby(["actual", "predicted"]).size().rename("number").reset_index()
    pairs = pairs.sort_values(["number", "actual", "predicted"], ascending=[False, True, True]).head(_MOST_PAIRS)
    head = ("Actual", "Taken for", "Clips", "Of the class, %")
    rows = [
        [actual, predicted, str(number), _percent(number / clips[actual])]
        for actual, predicted, number in pairs.itertuples(index=False)
    ]
    return Table("Most frequent confusions", head, head[2:], rows)


def _made_by(params: Params) -> str:
    """The scripts that `dvc repro` runs for these parameters, in order."""
    commands = [
        f"python -m stages.{stage}" for stage in ("download", "split", "explore", "extract_rgb", "extract_flow")
    ]
    splits = params.dataset.splits
    for stage in ("train", "score"):
        commands += [
            f"python -m stages.{stage} --stream {name} --split {split}"
            for name in (*params.train.rgb, *params.train.flow)
            for split in splits
        ]
    commands += [f"python -m stages.fuse --split {split}" for split in splits]
    return "\n".join([*commands, "python -m stages.evaluate", "python -m stages.report"]) + "\n"


class Mistake(NamedTuple):
    """A wrong fused prediction: what each system took the clip for, with its confidence in per cent, and its frames."""

    clip_id: str
    actual: str
    opinions: list[tuple[str, str, str]]
    strip: Strip | None


def _mistakes(params: Params, mistakes: pd.DataFrame, examples: Sequence[Example]) -> list[Mistake]:
    strips = {clip_id: (rgb, flow) for clip_id, rgb, flow in examples}
    listed = []
    for row in mistakes.to_dict("records"):
        # An SVM's decision values are an order, not probabilities.
        sure = "" if params.fusion.method == "svm" else f"{100 * row['confidence']:.0f} %"
        opinions = [(FUSION, row["predicted"], sure)]
        opinions += [(name, row[name], f"{100 * row[f'{name}_confidence']:.0f} %") for name in params.fusion.streams]
        strip = film_strip(*strips[row["clip_id"]]) if row["clip_id"] in strips else None
        listed.append(Mistake(row["clip_id"], row["actual"], opinions, strip))
    return listed
