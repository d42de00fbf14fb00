"""Measure how the cost of the pipeline grows with the number of clips, on data sets of tiny videos.

    python benchmarks/scale.py --clips 1000 7000 --work /tmp/scale --json scale.json

Each data set has ten classes and groups of five clips; a clip has eight frames of 40x32 pixels. A step is one
`dvc repro` in processes of its own, as a user starts it. Measured are its wall time, the processor time of all its
processes, and the memory of the largest.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import yaml
from command import positive, run
from project import copy_project

from twostream.errors import UserError
from twostream.profiles import load_profile

CLASSES, PER_GROUP = 10, 5
HEIGHT, WIDTH, FRAMES = 32, 40, 8


class Cost(NamedTuple):
    """Seconds of wall time and of processor time, and the memory of the largest process in MB."""

    wall: float
    cpu: float
    memory: float


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=positive, nargs="+", default=[1000, 7000], metavar="N", help="numbers of clips")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for the projects; kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file of the costs; the chart lies beside it")
    run(_measure_all, parser.parse_args(arguments))


def _measure_all(args: argparse.Namespace) -> None:
    found = {}
    for count in args.clips:
        found[count] = dict(_measure(args.work / str(count), count))
        if args.json:
            values = {n: {step: cost._asdict() for step, cost in costs.items()} for n, costs in found.items()}
            args.json.write_text(json.dumps(values, indent=1) + "\n")
    print(table(found))
    if args.json:
        draw(found, args.json.with_suffix(".svg"))


def _measure(top: Path, count: int) -> Iterator[tuple[str, Cost]]:
    """Yield the cost of each step on a new project of so many clips."""
    clips, project = top / "clips", top / "project"
    shutil.rmtree(top, ignore_errors=True)
    make_clips(clips, range(count))
    copy_project(project)
    _write_parameters(project, clips, "weighted")

    def step(name: str, *command: str) -> tuple[str, Cost]:
        cost = _cost(project, command)
        print(f"{count} clips: {name}: {cost.wall:.1f} s, {cost.cpu:.1f} s CPU, {cost.memory:.0f} MB", flush=True)
        return name, cost

    one = ("dvc", "repro", "--single-item")
    for stage in ("download", "probe", "split", "explore", "extract_rgb", "extract_flow"):
        yield step(stage, *one, stage)
    for stage in ("extract_rgb", "extract_flow"):
        yield step(f"{stage}, from the cache", *one, "--force", "--no-run-cache", stage)
    yield step("training and scores", "dvc", "repro", "score_rgb", "score_flow")
    for stage in ("fuse@1", "events@1", "evaluate", "report"):
        yield step(stage.partition("@")[0], *one, stage)
    yield step("no-op dvc repro", "dvc", "repro")
    for name, method in {"another fusion method": "average", "the fusion method set back": "weighted"}.items():
        _write_parameters(project, clips, method)
        yield step(name, "dvc", "repro")
    make_clips(clips, range(count, count + 1))
    stages = ("explore", "split", "extract_rgb", "extract_flow")
    yield step("one clip more, up to training", "dvc", "repro", *stages)
    files, size = _size(project)
    yield "files in the project", Cost(files, 0, size / 1e6)


def make_clips(folder: Path, numbers: range) -> None:
    """Write videos of different textures that move to one side or the other."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_make_clip, [folder] * len(numbers), numbers, chunksize=50))


def _make_clip(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    label, group = number % CLASSES, number // (CLASSES * PER_GROUP)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH + 2 * FRAMES, 3)).astype(np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    name = f"class{label}/source{group:05d}x{label}_{number // CLASSES % PER_GROUP}.avi"
    with av.open(str(folder / name), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in range(FRAMES):
            left = 2 * frame if label % 2 else 2 * (FRAMES - frame)
            image = np.ascontiguousarray(texture[:, left : left + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _write_parameters(project: Path, clips: Path, fusion: str) -> None:
    values = copy.deepcopy(load_profile("demo"))
    stream = {**values["streams"]["temporal"], "size": 16, "epochs": 1, "batch_size": 64}
    stream["sampling"] = {"mode": "uniform", "segments": 1, "frames": 1, "stride": 1}
    values["dataset"].update(name="folder", source=str(clips), splits=[1], group_pattern=r"(source\d+x\d+)")
    values["rgb"].update(short_side=32)
    values["flow"].update(method="farneback", short_side=32)
    values["train"].update(rgb=["rgb"], flow=["flow"])
    values["streams"] = {"rgb": stream, "flow": stream}
    values["score"].update(segments=1, flip=False)
    values["fusion"].update(streams=["rgb", "flow"], method=fusion)
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def _cost(project: Path, command: tuple[str, ...]) -> Cost:
    """Run a command in the project and return what it and all its processes cost."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}
    started = time.monotonic()
    with open(project / "dvc.log", "a") as log:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"{' '.join(command)} failed in {project}; the last lines of {log.name} say why")
    return Cost(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def _size(project: Path) -> tuple[int, int]:
    paths = [Path(folder, name) for folder, _, names in os.walk(project) for name in names]
    return len(paths), sum(path.lstat().st_size for path in paths)


def table(found: dict[int, dict[str, Cost]]) -> str:
    """Return a Markdown table of seconds of wall and processor time by step, and the growth of processor time.

    The growth is the exponent of the number of clips between the smallest and the largest data set: 1 is linear, and
    what does not depend on the clips makes it smaller.
    """
    counts = sorted(found)
    lines = [f"| step | {' | '.join(f'{n:,} clips' for n in counts)} | growth |", "|---" * (len(counts) + 2) + "|"]
    for step in found[counts[0]]:
        costs = [found[n][step] for n in counts]
        if step == "files in the project":
            cells = [f"{cost.wall:,.0f} files, {cost.memory:,.0f} MB" for cost in costs]
        else:
            cells = [f"{cost.wall:.1f} s, {cost.cpu:.1f} s CPU, {cost.memory:,.0f} MB" for cost in costs]
        first, last = (cost.cpu or cost.wall for cost in (costs[0], costs[-1]))
        growth = np.log(last / first) / np.log(counts[-1] / counts[0]) if len(counts) > 1 else np.nan
        lines.append(f"| {step} | {' | '.join(cells)} | {growth:.2f} |")
    return "\n".join(lines)


def draw(found: dict[int, dict[str, Cost]], path: Path) -> None:
    """Draw processor time over the number of clips, both logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "scale", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    counts = sorted(found)
    for step in found[counts[0]]:
        if step != "files in the project":
            axes.plot(counts, [found[n][step].cpu for n in counts], marker="o", label=step)
    axes.set(xscale="log", yscale="log", xlabel="clips", ylabel="processor time in seconds")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
