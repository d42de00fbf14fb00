"""Stage: the test metrics of every stream and of their fusion, over all splits."""

import json
from pathlib import Path

import pandas as pd

from stages.common import run
from twostream.core.files import atomic_path
from twostream.datasets.tables import read_clips, read_split, write_table
from twostream.fusion import evaluation
from twostream.fusion.events import event_scores, read_events, stretches_of
from twostream.fusion.scores import read_scores
from twostream.params import Params

METRICS = Path("metrics")


def evaluate(params: Params) -> None:
    """Write metrics/metrics.json and the tables behind the plots and the report."""
    clips, splits = read_clips("data/clips.csv"), params.dataset.splits
    names, fused = [*params.train.rgb, *params.train.flow], params.fusion.streams
    tested = evaluation.select_test_clips(
        {n: {name: read_scores(f"data/scores/split{n}/{name}.npz") for name in names} for n in splits},
        {n: read_scores(f"data/fused/split{n}.npz") for n in splits},
    )
    groups = clips.set_index("clip_id")["group"]
    settings = params.evaluate.model_dump()
    metrics: dict = evaluation.evaluate(tested, groups, fused, **settings, seed=params.seed)
    best = evaluation.best_stream(metrics, fused)
    metrics["paired"] = evaluation.paired_differences(tested, groups, _pairs(params), **settings, seed=params.seed)
    metrics["class_prior"] = {"top1": evaluation.class_prior(tested, _training_classes(clips, splits))}
    found = read_events([METRICS / f"events/split{n}.csv" for n in splits])
    if len(found):
        metrics["events"] = event_scores([(true, predicted) for *_, true, predicted in stretches_of(found)])
    count = {status: int((clips["status"] == status).sum()) for status in ("unreadable", "missing")}
    metrics["clips"] = {"total": len(clips), **count}
    write_table(evaluation.per_class(tested), METRICS / "per_class.csv")
    write_table(evaluation.confusion(tested), METRICS / "confusion.csv")
    write_table(evaluation.mistakes(tested, fused, limit=params.report.examples), METRICS / "mistakes.csv")
    write_table(evaluation.contribution(tested, fused, best), METRICS / "contribution.csv")
    write_table(_curves(names, splits), METRICS / "curves.csv")
    with atomic_path(METRICS / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    print(evaluation.results_table(metrics, names))


def _pairs(params: Params) -> list[tuple[str, str]]:
    """Return what to compare: fusion with each stream, and flow with its baseline, the difference of frames."""
    rgb, flow = params.train.rgb, params.train.flow
    differences = [name for name in rgb if params.streams[name].input == "difference"]
    fusion = [(evaluation.FUSION, name) for name in (*rgb, *flow)]
    return fusion + [(motion, baseline) for motion in flow for baseline in differences]


def _training_classes(clips: pd.DataFrame, splits: list[int]) -> dict[int, list[str]]:
    """Return the class of each readable training or validation clip, by split."""
    of_clip = clips[clips["status"] == "ok"].set_index("clip_id")["class"]
    found = {}
    for number in splits:
        assigned = read_split(f"data/splits/{number}.csv").reindex(of_clip.index)
        found[number] = of_clip[assigned.isin(["train", "val"])].tolist()
    return found


def _curves(names: list[str], splits: list[int]) -> pd.DataFrame:
    """Return the training curves of all streams and splits in one table."""
    tables = []
    for run_name in (f"{name}-{n}" for name in names for n in splits):
        plots = METRICS / "train" / run_name / "plots" / "metrics"
        table = pd.DataFrame({"run": run_name, "epoch": pd.read_csv(plots / "val" / "top1.tsv", sep="\t")["step"] + 1})
        for column in ("train_loss", "val_loss", "train_top1", "val_top1"):
            subset, metric = column.split("_")
            table[column] = pd.read_csv(plots / subset / f"{metric}.tsv", sep="\t")[metric]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    run(evaluate)
