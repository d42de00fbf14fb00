"""Stage: one page that shows the data, the streams and what each of them contributes."""

from pathlib import Path

import cv2

from stages.common import run
from twostream.core.cache import recorded_outputs
from twostream.core.files import atomic_path
from twostream.datasets.tables import read_clips, read_split
from twostream.params import Params
from twostream.report.page import write_report
from twostream.report.results import read_results
from twostream.report.strips import choose_examples, read_example, strips_image

DATA, METRICS = Path("data"), Path("metrics")
INPUTS = ("data/videos", "data/annotations", "data/clips.csv", "data/splits")
CLIPS_IN_IMAGE = 3


def report(params: Params) -> None:
    """Write metrics/report.html and metrics/examples.jpg, an image of some clips with their flow."""
    clips, numbers = read_clips(DATA / "clips.csv"), params.dataset.splits
    splits = {n: read_split(DATA / f"splits/{n}.csv") for n in numbers}
    results, recorded = read_results(METRICS, numbers), recorded_outputs()
    examples, wrong, in_image = (
        [read_example(DATA, clip_id, params.flow.bound) for clip_id in clip_ids]
        for clip_ids in (
            choose_examples(clips, splits[numbers[0]], params.report.examples),
            dict.fromkeys(results.mistakes["clip_id"]),
            choose_examples(clips, splits[numbers[0]], CLIPS_IN_IMAGE),
        )
    )
    with atomic_path(METRICS / "examples.jpg") as file:
        file.write_bytes(cv2.imencode(".jpg", strips_image(in_image)[..., ::-1])[1].tobytes())
    write_report(
        METRICS / "report.html",
        params=params,
        clips=clips,
        splits=splits,
        results=results,
        examples=examples,
        mistake_examples=wrong,
        digests={path: recorded[path]["md5"] for path in INPUTS if path in recorded},
    )


if __name__ == "__main__":
    run(report)
