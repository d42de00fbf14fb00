"""Measure the way from annotated segments of a long video to a trained model and back, on a video that this makes.

    python benchmarks/segments.py [--clips 60] [--minutes 10] [--seed 0] [--weights FILE ...] [--set KEY=VALUE]
        [--work segments]

The video shows clips of the demo data set with gaps between them: noise, still frames of other clips, or grey. Its
Label Studio export goes through the three commands of docs/segments.md in a project of its own. The output is F1 of
the predicted events at a temporal IoU of 0.5, on the test blocks as `evaluate` measures it and on the whole video, of
which the model has learnt a part, and the time and the largest memory of each command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from command import positive, run
from project import copy_project

from twostream.datasets import demo as demo_set
from twostream.errors import UserError
from twostream.fusion.events import Event, event_scores
from twostream.params import Demo

FPS, SIZE = demo_set.FPS, (160, 120)
PROFILE = "folder-quick"


def main() -> None:
    """Parse the command line, make the video, run the commands, print the results."""
    parser = argparse.ArgumentParser(description="From annotated segments to a model and back.")
    parser.add_argument("--clips", type=positive, default=60, help="clips in the video (60)")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the video (10)")
    parser.add_argument("--seed", type=int, default=0, help="draws the clips, their order and the gaps (0)")
    parser.add_argument("--weights", type=Path, nargs="+", default=[], help="weight files to put into data/weights/")
    change = "change a value of the profile, such as streams.spatial.weights=data/weights/i3d.safetensors"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=change)
    parser.add_argument("--work", type=Path, default=Path("segments"), help="folder of the project (segments)")
    run(_run, parser.parse_args())


def _run(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise UserError("--seed: give 0 or more")
    work = args.work.resolve()
    video, export = work / "videos" / "long.mp4", work / "export.json"
    copy_project(work)
    for weights in args.weights:
        link = work / "data/weights" / weights.name
        if not link.exists():
            link.symlink_to(weights.resolve(strict=True))
    truth = make_video(video, export, args.clips, args.minutes, args.seed)
    out = work / "predicted.ls.json"
    commands = {
        "import": [
            *("twostream.cli", "import", str(export), "--videos", str(video.parent)),
            *("--background", "background", "--profile", PROFILE, "--force"),
            *(f"--set={value}" for value in args.set),
        ],
        "repro": ["dvc", "repro"],
        "predict": ["twostream.cli", "predict", str(video), "--events", str(out)],
    }
    for name, command in commands.items():
        _timed(work, name, command)
    metrics = json.loads((work / "metrics/metrics.json").read_text())
    (task,) = json.loads(out.read_text())
    predicted = [
        Event(
            (one["value"]["ranges"][0]["start"] - 1) / FPS, one["value"]["ranges"][0]["end"] / FPS, label, one["score"]
        )
        for one in task["predictions"][0]["result"]
        for label in one["value"]["timelinelabels"]
    ]
    print(f"test blocks:     {metrics['events']}; top-1 of the test clips {metrics['fusion']['top1']:.3f}")
    print(f"the whole video: {event_scores([(truth, predicted)])}")


def make_video(video: Path, export: Path, clips: int, minutes: float, seed: int) -> list[Event]:
    """Write a video of demo clips with gaps and its Label Studio export, and return the true events."""
    rng = np.random.default_rng(seed)
    settings = Demo(groups=12, takes=2, frames=30, width=SIZE[0], height=SIZE[1], seed=seed)
    names = [(motion, thing) for motion in demo_set.MOTIONS for thing in demo_set.THINGS]
    shots = []
    for number in range(clips):
        motion, thing = names[number % len(names)]
        clip = demo_set.Clip(motion, thing, int(rng.integers(12)), number)
        shots.append((clip.label, list(demo_set.render(clip, settings))))
    rng.shuffle(shots)
    free = round(minutes * 60 * FPS) - sum(len(frames) for _, frames in shots)
    if free < 0:
        raise UserError("--minutes: too few for so many clips")
    gaps = rng.multinomial(free, rng.dirichlet(np.full(clips + 1, 3.0)))
    truth: list[Event] = []
    video.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "g": "50"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        number = 0
        for index, gap in enumerate(gaps):
            label, frames = shots[index] if index < clips else ("", [])
            for image in _gap(rng, int(gap), shots):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            number += int(gap)
            if frames:
                truth.append(Event(number / FPS, (number + len(frames)) / FPS, label))
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            number += len(frames)
        container.mux(stream.encode())
    result = [
        {
            "id": f"r{index}",
            "type": "timelinelabels",
            "from_name": "videoLabels",
            "to_name": "video",
            "value": {
                "ranges": [{"start": round(event.start * FPS) + 1, "end": round(event.end * FPS)}],
                "timelinelabels": [event.label],
            },
        }
        for index, event in enumerate(truth)
    ]
    task = {"id": 1, "data": {"video": f"/data/upload/1/01234567-{video.name}"}, "annotations": [{"result": result}]}
    export.write_text(json.dumps([task]))
    return truth


def _gap(rng: np.random.Generator, count: int, shots: list[tuple[str, list[np.ndarray]]]) -> Iterator[np.ndarray]:
    """Yield frames between two clips: noise, a still frame of some clip, or grey."""
    kind = rng.integers(3)
    still = shots[rng.integers(len(shots))][1][0]
    for _ in range(count):
        if kind == 0:
            yield rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        else:
            yield still if kind == 1 else np.full_like(still, 128)


def _timed(work: Path, name: str, command: list[str]) -> None:
    """Run a Python module in the project, and print its time and the memory of its largest process."""
    script = (
        "import os, resource, runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n    code = end.code\nelse:\n    code = 0\n"
        "peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))\n"
        f"open({str(work / 'peak')!r}, 'w').write(str(peak))\n"
        "sys.exit(code)\n"
    )
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(work)
    started = time.monotonic()
    with (work / f"{name}.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", script, *command], cwd=work, env=environment, stdout=log, stderr=log
        )
    if done.returncode:
        raise UserError(f"{name} failed in {work}; the last lines of {name}.log there say why")
    peak = int((work / "peak").read_text()) / 1024
    print(f"{name:<8} {time.monotonic() - started:7.0f} s, largest process {peak:5.0f} MB", flush=True)


if __name__ == "__main__":
    main()
