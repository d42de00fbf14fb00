"""Measure flow methods on pairs of frames with known flow: their end-point error, and the time they take.

    python benchmarks/flow.py --data DIR [--size 340x256|native] [--threads 1] [--json OUT] [--chart OUT.svg]

DIR holds `<sequence>/frame1.png, frame2.png, flow.flo`. Times are processor time on one thread, from two uint8 images
to flow, so that other programs on the machine hardly count. Methods take turns within each round. A time is the median
over the rounds of a sequence's time, averaged over the sequences.
"""

from __future__ import annotations

import argparse
import importlib
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
from command import positive, run
from flow_methods import check_names, flow_settings, is_rival, named_solver
from groundtruth import Pair, end_point_error, read_pairs, resized

from twostream.core.files import atomic_path
from twostream.core.parallel import cores, exit_with_parent, progress
from twostream.errors import UserError
from twostream.flow import ON_GPU, Solver

METHODS = ("tvl1-fast", "tvl1-balanced", "tvl1-accurate", "tvl1_opencv", "tvl1_opencv-quick", "farneback", "dis-medium")
REFERENCES = ("tvl1_opencv", "tvl1_opencv-quick", "dis-medium")
SMALLEST = 16  # pixels: clips are never smaller, and OpenCV's DIS fails below
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
        description="End-point error (EPE) and time of flow methods on pairs of frames with known flow.",
        epilog="More methods: dis-fast, dis-ultrafast, raft-small, raft-large (raft needs its weights, fetched once).",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of <sequence>/{frame1.png, frame2.png, flow.flo}; flow above 1e8 is unknown",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default="340x256",
        help="WIDTHxHEIGHT to which frames are resized by area and flow is scaled (340x256), or native",
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME", help=" ".join(METHODS))
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="timed rounds (5)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="also measure pairs per second of N one-thread processes; 0: one per core; 1: do not (1)",
    )
    parser.add_argument(
        "--gain",
        type=float,
        nargs=2,
        default=(1.0, 1.0),
        metavar="G",
        help="factors from 0 to 1 on the grey levels of first and second frames, a change of exposure (1 1)",
    )
    parser.add_argument("--batch", type=positive, default=64, metavar="N", help="pairs per batch on a GPU (64)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file to write the numbers to")
    parser.add_argument("--chart", type=Path, metavar="OUT", help="SVG file to draw (with --json, the same name)")
    given = parser.parse_args(arguments)
    if not all(0 <= gain <= 1 for gain in given.gain):
        parser.error(f"argument --gain: {given.gain[0]:g} {given.gain[1]:g} are not both from 0 to 1")
    if given.threads < 0:
        parser.error(f"argument --threads: {given.threads} is below 0")
    run(_run, given)


def _run(given: argparse.Namespace) -> None:
    chart = given.chart or (given.json.with_suffix(".svg") if given.json else None)
    for path in (given.json, chart):  # before the minutes of measuring
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise UserError(f"{path}: cannot be written; name a file in a folder that exists")
    pairs = _read(given)
    cv2.setNumThreads(1)
    # Libraries that are imported later, here and in the workers, read these.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    solvers = _solvers(given.methods)
    results = measure(solvers, pairs, given.repeats)
    workers = given.threads or cores()
    if workers > 1:
        rates = throughput({name: results[name].ms for name in solvers}, pairs, workers, given.repeats)
        for name, pair_rates in rates.items():
            results[name].rates = pair_rates
    results |= _on_gpu(list(solvers), pairs, given.batch, given.repeats)

    size = "x".join(map(str, given.size)) if given.size else "native size"
    print(f"{len(pairs)} pairs, {size}, median of {given.repeats} rounds")
    print(tables(results, workers))
    if given.json:
        with atomic_path(given.json) as path:
            path.write_text(json.dumps(as_json(results), indent=2) + "\n")
    if chart:
        from flow_chart import Point, draw_chart

        points = [Point(name, _family(name), one.ms, one.epe_mean) for name, one in results.items()]
        with atomic_path(chart) as path:
            draw_chart(points, f"Time per pair against mean end-point error, {size}", path)


def _read(given: argparse.Namespace) -> list[Pair]:
    pairs = read_pairs(given.data)
    if given.size:
        pairs = [resized(pair, *given.size) for pair in pairs]
    for pair in pairs:
        if min(pair.known.shape) < SMALLEST:
            name = given.data / pair.name
            raise UserError(f"{name}: smaller than {SMALLEST} pixels on a side; choose another --size")
    first, second = given.gain
    return [pair._replace(first=_dimmed(pair.first, first), second=_dimmed(pair.second, second)) for pair in pairs]


def _dimmed(image: np.ndarray, gain: float) -> np.ndarray:
    return (gain * image + 0.5).astype(np.uint8)


def _solvers(names: Sequence[str]) -> dict[str, Solver]:
    check_names(list(names))  # before any work
    solvers = {}
    for name in names:
        try:
            solvers[name] = named_solver(name)
        except UserError as error:
            if not name.startswith("raft"):
                raise
            print(f"{name} left out: {error}", file=sys.stderr)
    if not solvers:
        raise UserError("--methods: none of these can run here")
    return solvers


def measure(solvers: dict[str, Solver], pairs: Sequence[Pair], repeats: int) -> dict[str, Measured]:
    """Run every solver on every pair: once, untimed, for its error, then in `repeats` rounds for its time."""
    results = {name: Measured() for name in solvers}
    turns = [(name, pair) for pair in pairs for name in solvers]
    with progress((1 + repeats) * len(turns), "one core", "turn") as bar:
        for name, pair in turns:
            results[name].epe[pair.name] = _checked_error(solvers[name](pair.first, pair.second), pair, name)
            bar.update()
        for name, pair in turns * repeats:
            milliseconds = _milliseconds(lambda solve=solvers[name], pair=pair: solve(pair.first, pair.second))
            results[name].rounds.setdefault(pair.name, []).append(milliseconds)
            bar.update()
    return results


def _milliseconds(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Return the mean time of as many calls as fill FILL_SECONDS, at least one."""
    start, calls, elapsed = clock(), 0, 0.0
    while elapsed < FILL_SECONDS:
        call()
        calls += 1
        elapsed = clock() - start
    return 1000 * elapsed / calls


def _checked_error(flow: np.ndarray, pair: Pair, name: str) -> float:
    error = end_point_error(flow, pair)
    if not math.isfinite(error):
        raise UserError(f"{name}: its flow of {pair.name} is not finite; leave it out of --methods")
    return error


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


def _on_gpu(names: Sequence[str], pairs: Sequence[Pair], batch: int, repeats: int) -> dict[str, Measured]:
    """Measure the methods that have a GPU version, if there is a GPU: `batch` copies of a pair, in the GPU's memory."""
    settings = {name: flow_settings(name) for name in names if _family(name) in ON_GPU and not is_rival(name)}
    if not settings:
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    results = {f"{name}-cuda": Measured() for name in settings}
    solvers = {}
    for name, flow in settings.items():
        module = importlib.import_module(f"twostream.flow.{flow.method}")
        solvers[f"{name}-cuda"] = module.solver(getattr(flow, flow.method), "cuda")

    def solve(name: str, images: list[torch.Tensor]) -> torch.Tensor:
        flow = solvers[name].match_batch(*images)
        torch.cuda.synchronize()
        return flow

    turns = [(name, pair) for pair in pairs for name in solvers]
    with progress((1 + repeats) * len(turns), "GPU", "turn") as bar:
        for number in range(1 + repeats):
            for name, pair in turns:
                images = [torch.from_numpy(image).cuda().repeat(batch, 1, 1) for image in (pair.first, pair.second)]
                milliseconds = (
                    _milliseconds(lambda name=name, images=images: solve(name, images), time.perf_counter) / batch
                )
                if number:
                    results[name].rounds.setdefault(pair.name, []).append(milliseconds / batch)
                else:  # compiles, records or tunes
                    flow_px = solve(name, images)[-1].cpu().numpy()
                    results[name].epe[pair.name] = _checked_error(flow_px, pair, name)
                bar.update()
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
    first = {name: {"mean EPE": f"{one.epe_mean:.3f}", "ms per pair": _short(one.ms)} for name, one in results.items()}
    for name, one in results.items():
        if one.rates:
            alone, together = one.rates
            first[name] |= {"pairs/s, 1 core": _short(alone), f"pairs/s, {workers}": _short(together)}
            first[name] |= {"ratio": _short(together / alone)}
    parts = [_table(first, "method")]
    for reference in (name for name in REFERENCES if name in results):
        base = results[reference]
        ratios = {}
        for name, one in results.items():
            ratios[name] = {"EPE, ratio of means": f"{one.epe_mean / base.epe_mean:.3f}"}
            ratios[name]["EPE, geometric mean of ratios"] = f"{geometric_ratio(one.epe, base.epe):.3f}"
            ratios[name]["times as fast"] = _short(base.ms / one.ms)
        parts.append(_table(ratios, f"compared with {reference}"))
    epe = {name: {sequence: f"{value:.3f}" for sequence, value in one.epe.items()} for name, one in results.items()}
    parts.append(_table(epe, "EPE by sequence"))
    return "\n\n".join(parts)


def _table(rows: dict[str, dict[str, str]], corner: str) -> str:
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("-").rename_axis(columns=corner)
    return frame.to_string()


def _family(name: str) -> str:
    return name.partition("-")[0] + ("-cuda" if name.endswith("-cuda") else "")


def _short(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _size(text: str) -> tuple[int, int] | None:
    if text == "native":
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= SMALLEST):
        raise argparse.ArgumentTypeError(f"{text!r} is not native, nor WIDTHxHEIGHT of {SMALLEST} pixels or more")
    return int(width), int(height)


if __name__ == "__main__":
    main()
