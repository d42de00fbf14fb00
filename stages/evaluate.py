"""Stage: the test metrics of every stream and of their fusion, over all splits."""

import json
import os
from pathlib import Path

import pandas as pd

from stages.common import run
from twostream.datasets.tables import read_clips, write_table
from twostream.fusion.evaluation import confusion, contribution, mistakes, per_class, results_table
from twostream.fusion.evaluation import evaluate as evaluate_scores
from twostream.fusion.scores import read_scores
from twostream.params import Params

METRICS = Path("metrics")


def evaluate(params: Params) -> None:
    """Write metrics/metrics.json and the tables that the plots and the report are drawn from."""
    clips = read_clips("data/clips.csv")
    names = [*params.train.rgb, *params.train.flow]
    splits = params.dataset.splits
    scores = {n: {name: read_scores(Path(f"data/scores/split{n}/{name}.npz")) for name in names} for n in splits}
    fused = {n: read_scores(Path(f"data/fused/split{n}.npz")) for n in splits}
    streams = params.fusion.streams
    settings = params.evaluate
    metrics = evaluate_scores(
        scores,
        fused,
        clips.set_index("clip_id")["group"],
        streams,
        bootstrap=settings.bootstrap,
        confidence=settings.confidence,
        seed=params.seed,
    )
    status = clips["status"].value_counts()
    metrics["clips"] = {
        "total": len(clips),
        "unreadable": int(status.get("unreadable", 0)),
        "missing": int(status.get("missing", 0)),
    }
    write_table(per_class(scores, fused), METRICS / "per_class.csv")
    write_table(confusion(list(fused.values())), METRICS / "confusion.csv")
    write_table(mistakes(scores, fused, streams, limit=params.report.examples), METRICS / "mistakes.csv")
    write_table(contribution(scores, fused, streams), METRICS / "contribution.csv")
    write_table(_curves(names, splits), METRICS / "curves.csv")
    beside = METRICS / "metrics.json.part"
    beside.write_text(json.dumps(metrics, indent=2) + "\n")
    os.replace(beside, METRICS / "metrics.json")
    print(results_table(metrics, names))


def _curves(names: list[str], splits: list[int]) -> pd.DataFrame:
    """The training curves of all streams and splits in one table."""
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
