"""Measure flow methods on pairs of frames with known flow: their end-point error, and the time they take.

    python benchmarks/flow.py --data DIR [--size 340x256|native] [--threads 1] [--json OUT] [--chart OUT.svg]

DIR holds `<sequence>/frame1.png, frame2.png, flow.flo`. Times are processor time on one thread, from two uint8 images
to flow, so that other programs on the machine hardly count. Methods take turns within each round. A time is the median
over the rounds of a sequence's time, averaged over the sequences.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from command import positive, run, short
from flow_methods import NVIDIA, OPENCV_TVL1, PIPELINE_METHODS, flow_settings, named_solver
from groundtruth import Pair, end_point_error, read_pairs, resized

from twostream.core.files import atomic_path
from twostream.core.parallel import cores, exit_with_parent, progress
from twostream.errors import UserError
from twostream.flow import ON_GPU, make_solver

METHODS = ("tvl1-fast", "tvl1-balanced", "tvl1-accurate", "tvl1_opencv", "tvl1_opencv-quick", "farneback", "dis-medium")
REFERENCES = ("tvl1_opencv", "tvl1_opencv-quick", "dis-medium")
SMALLEST = 16  # pixels: clips are never smaller, and OpenCV's DIS fails below
GPU_BATCH = 64  # pairs
FILL_SECONDS = 0.05  # a fast method is called until this has passed, so that an interrupt hardly counts
PASS_SECONDS = 2.0  # the same for a worker process
START_SECONDS = 600  # with compilation; a worker that takes longer has failed


@dataclass
class Measured:
    """What one method reached, by sequence: EPE in pixels, and the milliseconds per pair of every round."""

    epe: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    rates: tuple[float, float] | None = None  # pairs per second of one worker process and of all

    @property
    def epe_mean(self) -> float:
        return statistics.fmean(self.epe.values())

    @property
    def ms(self) -> float:
        return statistics.fmean(statistics.median(times) for times in self.rounds.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print; a UserError is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        description="End-point error (EPE) and time of flow methods on pairs of frames with known flow."
    )
    parser.add_argument("--data", type=Path, required=True, help="<sequence>/{frame1.png, frame2.png, flow.flo} below")
    parser.add_argument(
        "--size", type=_size, default="340x256", metavar="WIDTHxHEIGHT", help="size to compute at (340x256), or native"
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=[*PIPELINE_METHODS, *OPENCV_TVL1, *NVIDIA])
    parser.add_argument("--repeats", type=positive, default=5, help="timed rounds (5)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="also measure pairs per second of so many one-thread processes; 0: one per core; 1: do not (1)",
    )
    parser.add_argument(
        "--gain",
        type=float,
        nargs=2,
        default=(1.0, 1.0),
        help="factors on the grey levels of first and second frames, a change of exposure (1 1)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file to write the numbers to")
    parser.add_argument("--chart", type=Path, metavar="OUT", help="SVG file to draw (with --json, the same name)")
    run(_run, parser.parse_args(arguments))


def _run(args: argparse.Namespace) -> None:
    chart = args.chart or (args.json.with_suffix(".svg") if args.json else None)
    for path in (args.json, chart):  # before the minutes of measuring
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise UserError(f"{path}: cannot be written; name a file in a folder that exists")
    pairs = _read(args)
    names = available(args.methods)
    cv2.setNumThreads(1)
    # Libraries that are imported later, here and in the workers, read these.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    solvers = {name: named_solver(name) for name in names if name not in NVIDIA}
    results = measure(solvers, pairs, args.repeats)
    workers = args.threads or cores()
    if workers > 1:
        rates = throughput({name: results[name].ms for name in solvers}, pairs, workers, args.repeats)
        for name, pair_rates in rates.items():
            results[name].rates = pair_rates
    results |= measure_on_gpu(names, pairs, args.repeats)

    size = "x".join(map(str, args.size)) if args.size else "native size"
    print(f"{len(pairs)} pairs, {size}, median of {args.repeats} rounds")
    print(tables(results, workers))
    if args.json:
        with atomic_path(args.json) as path:
            path.write_text(json.dumps(as_json(results), indent=2) + "\n")
    if chart:
        from flow_chart import Point, draw_chart

        points = [Point(name, _family(name), one.ms, one.epe_mean) for name, one in results.items()]
        with atomic_path(chart) as path:
            draw_chart(points, f"Time per pair against mean end-point error, {size}", path)


def available(names: Sequence[str]) -> list[str]:
    """Return the methods without those of NVIDIA's engine where it is missing, which a line of output explains.

    Raises:
        UserError: no other method is asked for.
    """
    others = [name for name in names if name not in NVIDIA]
    if len(others) == len(names):
        return others
    from nvidia_engine import missing

    line = missing()
    if not line:
        return list(names)
    if not others:
        raise UserError(line)
    print(line, file=sys.stderr)
    return others


def _read(args: argparse.Namespace) -> list[Pair]:
    pairs = read_pairs(args.data)
    if args.size:
        pairs = [resized(pair, *args.size) for pair in pairs]
    for pair in pairs:
        if min(pair.known.shape) < SMALLEST:
            name = args.data / pair.name
            raise UserError(f"{name}: smaller than {SMALLEST} pixels on a side; choose another --size")
    first, second = args.gain
    return [pair._replace(first=_dimmed(pair.first, first), second=_dimmed(pair.second, second)) for pair in pairs]


def _dimmed(image: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(gain * image + 0.5, 0, 255).astype(np.uint8)


def measure(
    solvers: dict[str, Callable], pairs: Sequence[Pair], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, Measured]:
    """Run every solver on every pair: once, untimed, for its error, then in `repeats` rounds for its time."""
    results = {name: Measured() for name in solvers}
    turns = [(name, pair) for pair in pairs for name in solvers]
    with progress((1 + repeats) * len(turns), "time and error", "turn") as bar:
        for name, pair in turns:
            error = end_point_error(_numpy(solvers[name](pair.first, pair.second)), pair)
            if not math.isfinite(error):
                raise UserError(f"{name}: its flow of {pair.name} is not finite; leave it out of --methods")
            results[name].epe[pair.name] = error
            bar.update()
        for name, pair in turns * repeats:
            start, calls, elapsed = clock(), 0, 0.0
            while elapsed < FILL_SECONDS:
                solvers[name](pair.first, pair.second)
                calls += 1
                elapsed = clock() - start
            results[name].rounds.setdefault(pair.name, []).append(1000 * elapsed / calls)
            bar.update()
    return results


def _numpy(flow: Any) -> np.ndarray:
    return flow if isinstance(flow, np.ndarray) else flow.cpu().numpy()


def throughput(
    milliseconds: dict[str, float], pairs: Sequence[Pair], workers: int, repeats: int
) -> dict[str, tuple[float, float]]:
    """Return pairs per second of one worker process and of `workers` at once, by method: medians over the rounds.

    Args:
        milliseconds: time per pair by method, from which follows how long each turn works.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads of OpenCV and torch
    together = context.Barrier(workers)
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in milliseconds}
    with (
        ProcessPoolExecutor(workers, context, _start_worker, (list(pairs), together)) as pool,
        progress((1 + repeats) * len(rates), f"{workers} workers", "turn") as bar,
    ):
        for turn in range(1 + repeats):  # in turn 0 every worker compiles and warms up
            for name, ms in milliseconds.items():
                passes = max(1, round(1000 * PASS_SECONDS / (ms * len(pairs)))) if turn else 1
                for kept, count in zip(rates[name], (1, workers), strict=True):
                    jobs = [pool.submit(_work, name, passes, count > 1) for _ in range(count)]
                    slowest = max(job.result() for job in jobs)
                    if turn:
                        kept.append(count * passes * len(pairs) / slowest)
                bar.update()
    return {name: (statistics.median(one), statistics.median(every)) for name, (one, every) in rates.items()}


_worker: dict[str, Any] = {}  # of a worker process: pairs, solvers by name, and the barrier of all workers


def _start_worker(pairs: list[Pair], together: Barrier) -> None:
    exit_with_parent()
    cv2.setNumThreads(1)
    _worker.update(pairs=pairs, together=together, solvers={})


def _work(name: str, passes: int, together: bool) -> float:
    """Return the seconds that this worker takes for all pairs, `passes` times over."""
    solvers = _worker["solvers"]
    if name not in solvers:
        solvers[name] = named_solver(name)
    if together:
        _worker["together"].wait(START_SECONDS)
    start = time.perf_counter()
    for _ in range(passes):
        for pair in _worker["pairs"]:
            solvers[name](pair.first, pair.second)
    return time.perf_counter() - start


def measure_on_gpu(names: Sequence[str], pairs: Sequence[Pair], repeats: int) -> dict[str, Measured]:
    """Measure the methods that have a GPU version, if there is a GPU: GPU_BATCH copies of a pair, in its memory."""
    import torch

    ours = [name for name in names if name in PIPELINE_METHODS and PIPELINE_METHODS[name][0] in ON_GPU]
    engine = [name for name in names if name in NVIDIA]
    if not (ours or engine) or not torch.cuda.is_available():
        return {}

    def on_gpu(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).cuda().repeat(GPU_BATCH, 1, 1)

    def batched(solver: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        def solve(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            flow = solver.match_batch(first, second)
            torch.cuda.synchronize()
            return flow[-1]

        return solve

    solvers = {f"{name}-cuda": batched(make_solver(flow_settings(name), "cuda")) for name in ours}
    if engine:
        from nvidia_engine import NvidiaEngine

        solvers |= {name: batched(NvidiaEngine(NVIDIA[name])) for name in engine}
    batches = [pair._replace(first=on_gpu(pair.first), second=on_gpu(pair.second)) for pair in pairs]
    results = measure(solvers, batches, repeats, time.perf_counter)
    for one in results.values():
        one.rounds = {name: [ms / GPU_BATCH for ms in times] for name, times in one.rounds.items()}
    return results


def geometric_ratio(epe: dict[str, float], reference: dict[str, float]) -> float:
    """Return the geometric mean over the sequences of `epe` / `reference`, where an EPE counts at least 1e-6 pixels."""
    logs = [math.log(max(epe[sequence], 1e-6) / max(reference[sequence], 1e-6)) for sequence in reference]
    return math.exp(statistics.fmean(logs))


def as_json(results: dict[str, Measured]) -> dict[str, dict[str, dict]]:
    """Return the numbers by method; ratios to OpenCV's TV-L1 are None where that did not run."""
    reference = results.get("tvl1_opencv")
    methods = {}
    for name, one in results.items():
        methods[name] = {
            "epe_mean": one.epe_mean,
            "epe_geo_ratio": geometric_ratio(one.epe, reference.epe) if reference else None,
            "ms": one.ms,
            "speedup": reference.ms / one.ms if reference else None,
            "epe": one.epe,
        }
        if one.rates:
            methods[name] |= {"pairs_per_s_one": one.rates[0], "pairs_per_s_all": one.rates[1]}
    return {"methods": methods}


def tables(results: dict[str, Measured], workers: int) -> str:
    """Return what is printed: errors and times, ratios to the references that ran, and errors by sequence."""
    rows = {}
    for name, one in results.items():
        rows[name] = {"mean EPE": one.epe_mean, "ms per pair": one.ms}
        if one.rates:
            alone, together = one.rates
            rows[name] |= {"pairs/s, 1 core": alone, f"pairs/s, {workers}": together, "ratio": together / alone}
    parts = {"method": rows}
    for reference in (name for name in REFERENCES if name in results):
        base = results[reference]
        parts[f"compared with {reference}"] = {
            name: {
                "EPE, ratio of means": one.epe_mean / base.epe_mean,
                "EPE, geometric mean of ratios": geometric_ratio(one.epe, base.epe),
                "times as fast": base.ms / one.ms,
            }
            for name, one in results.items()
        }
    parts["EPE by sequence"] = {name: one.epe for name, one in results.items()}
    frames = (pd.DataFrame.from_dict(rows, "index").rename_axis(columns=corner) for corner, rows in parts.items())
    return "\n\n".join(frame.to_string(float_format=short, na_rep="-") for frame in frames)


def _family(name: str) -> str:
    return name.partition("-")[0] + ("-cuda" if name.endswith("-cuda") else "")


def _size(text: str) -> tuple[int, int] | None:
    if text == "native":
        return None
    width, height = map(int, text.split("x"))
    return width, height


if __name__ == "__main__":
    main()
