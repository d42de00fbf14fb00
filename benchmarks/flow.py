"""Flow methods side by side on pairs of frames whose flow is known: how far off each is, and how long it takes.

    python benchmarks/flow.py --data DIR [--size 340x256|native] [--threads 1] [--json OUT] [--chart OUT.svg]

DIR holds `<sequence>/frame1.png, frame2.png, flow.flo`. Times are those of one core: from two uint8 images to flow,
nothing kept from an earlier pair. Methods take turns within each round, so that a machine that slows down slows
all of them; a time is the median over rounds of a sequence's time, averaged over the sequences.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
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
from types import ModuleType

import cv2
import numpy as np
from command import positive, run
from flow_chart import Point, speed_against_error
from flow_methods import check_names, flow_settings, is_rival, named_solver
from groundtruth import Pair, end_point_error, read_pairs, resized
from tqdm import tqdm

from twostream.core.parallel import cores, exit_with_parent
from twostream.errors import UserError
from twostream.flow import ON_GPU, Solver
from twostream.params import Flow

METHODS = (
    *("tvl1-fast", "tvl1-balanced", "tvl1-accurate", "tvl1_opencv", "tvl1_opencv-quick"),
    *("farneback", "dis-medium"),
)
REFERENCES = ("tvl1_opencv", "tvl1_opencv-quick", "dis-medium")
SMALLEST = 16  # pixels: clips are never smaller, and OpenCV's DIS fails below
# A quick method is called until this is over, so that an interrupt counts little; the same for a worker.
FILL_SECONDS = 0.05
PASS_SECONDS = 2.0
START_SECONDS = 600  # compilation included; whoever waits longer waits for a worker that failed
VIDEO_PAIRS = 8


@dataclass
class Measured:
    """What one method did, by sequence: EPE in pixels, and of every round the milliseconds a pair.

    `video_rounds` are those of a video, where a frame's preparation serves both its pairs.
    """

    epe: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    video_rounds: dict[str, list[float]] = field(default_factory=dict)
    first_ms: float = math.nan  # the first call of all: imports are done, compilation is included
    busy_cores: float = math.nan
    rates: tuple[float, float] | None = None  # pairs a second of one worker and of all

    @property
    def epe_mean(self) -> float:
        return statistics.fmean(self.epe.values())

    @property
    def ms(self) -> float:
        return statistics.fmean(statistics.median(times) for times in self.rounds.values())

    @property
    def video_ms(self) -> float:
        return statistics.fmean(statistics.median(times) for times in self.video_rounds.values() or [[math.nan]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print; a UserError is one line and exit code 2."""
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
        help="workers of a second measurement, pairs a second of N one-thread processes; 0: one a core; 1: none (1)",
    )
    parser.add_argument(
        "--gain",
        type=float,
        nargs=2,
        default=(1.0, 1.0),
        metavar="G",
        help="factors from 0 to 1 on the grey levels of first and second frames: how robust to exposure (1 1)",
    )
    parser.add_argument("--batch", type=positive, default=64, metavar="N", help="pairs at once on a GPU (64)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file to write the figures to")
    parser.add_argument("--chart", type=Path, metavar="OUT", help="SVG file to draw (beside --json, if that is given)")
    given = parser.parse_args(arguments)
    if not all(0 <= gain <= 1 for gain in given.gain):
        parser.error(f"argument --gain: {given.gain[0]:g} {given.gain[1]:g} are not both from 0 to 1")
    if given.threads < 0:
        parser.error(f"argument --threads: {given.threads} is below 0")
    run(_run, given)


def _run(given: argparse.Namespace) -> None:
    chart = given.chart or (given.json.with_suffix(".svg") if given.json else None)
    for path in (given.json, chart):
        _check_writable(path)
    pairs = read_pairs(given.data)
    if given.size:
        pairs = [resized(pair, *given.size) for pair in pairs]
    if tuple(given.gain) != (1, 1):
        pairs = [
            pair._replace(first=_dimmed(pair.first, given.gain[0]), second=_dimmed(pair.second, given.gain[1]))
            for pair in pairs
        ]
    for pair in pairs:
        if min(pair.known.shape) < SMALLEST:
            raise UserError(
                f"{given.data / pair.name}: smaller than {SMALLEST} pixels on a side; choose another --size"
            )
    _one_thread()
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
        _write(given.json, json.dumps(as_json(results), indent=2) + "\n")
    if chart:
        points = [Point(name, _family(name), one.ms, one.epe_mean) for name, one in results.items()]
        _write(chart, speed_against_error(points, title=f"Time a pair against mean end-point error, {size}"))


def _solvers(names: Sequence[str]) -> dict[str, Solver]:
    solvers = {}
    check_names(list(names))  # before any work
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


def _dimmed(image: np.ndarray, gain: float) -> np.ndarray:
    return (gain * image + 0.5).astype(np.uint8)


def measure(solvers: dict[str, Solver], pairs: Sequence[Pair], repeats: int) -> dict[str, Measured]:
    """Every solver on every pair: once, untimed, for its error, then `repeats` rounds in which methods take turns."""
    results = {name: Measured() for name in solvers}
    turns = [(name, pair) for pair in pairs for name in solvers]
    wall, busy = dict.fromkeys(solvers, 0.0), dict.fromkeys(solvers, 0.0)
    with _bar((1 + repeats) * len(turns), "one core") as bar:
        for name, pair in turns:
            bar.set_postfix_str(name, refresh=False)
            start = time.perf_counter()
            flow = solvers[name](pair.first, pair.second)
            if not results[name].epe:
                results[name].first_ms = 1000 * (time.perf_counter() - start)
            results[name].epe[pair.name] = _checked_error(flow, pair, name)
            bar.update()
        for name, pair in turns * repeats:
            bar.set_postfix_str(name, refresh=False)
            started, used = time.perf_counter(), time.process_time()
            _take_turn(solvers[name], pair, results[name])
            wall[name] += time.perf_counter() - started
            busy[name] += time.process_time() - used
            bar.update()
    for name, result in results.items():
        result.busy_cores = busy[name] / wall[name]
    return results


def _take_turn(solve: Solver, pair: Pair, result: Measured) -> None:
    alone = _milliseconds(lambda: solve(pair.first, pair.second))
    result.rounds.setdefault(pair.name, []).append(alone)
    if type(solve).prepare is Solver.prepare and type(solve).sequence is Solver.sequence:
        in_video = alone  # nothing is shared, so a video is its pairs
    else:
        frames = [pair.first, pair.second] * (VIDEO_PAIRS // 2) + [pair.first]
        in_video = _milliseconds(lambda: [None for _ in solve.sequence(iter(frames))]) / VIDEO_PAIRS
    result.video_rounds.setdefault(pair.name, []).append(in_video)


def _milliseconds(call: Callable[[], object]) -> float:
    """Time of a call: the mean of as many as fill FILL_SECONDS, one at least."""
    start, calls, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < FILL_SECONDS:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
    return 1000 * elapsed / calls


def _checked_error(flow: np.ndarray, pair: Pair, name: str) -> float:
    error = end_point_error(flow, pair)
    if not math.isfinite(error):
        raise UserError(f"{name}: its flow of {pair.name} is not finite; leave it out of --methods")
    return error


def throughput(
    milliseconds: dict[str, float], pairs: Sequence[Pair], workers: int, repeats: int
) -> dict[str, tuple[float, float]]:
    """Pairs a second of one worker process and of `workers` at once, by method; medians of rounds that take turns.

    Args:
        milliseconds: a pair's time by method, from which follows how long to work.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads of OpenCV and torch
    together = context.Barrier(workers)
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in milliseconds}
    with (
        ProcessPoolExecutor(workers, context, _start_worker, (list(pairs), together)) as pool,
        _bar((1 + 2 * repeats) * len(rates), f"{workers} workers") as bar,
    ):
        for turn in range(1 + repeats):
            for name, ms in milliseconds.items():
                bar.set_postfix_str(name, refresh=False)
                # In round 0 every worker compiles and warms up.
                passes = max(1, round(1000 * PASS_SECONDS / (ms * len(pairs)))) if turn else 1
                for side, count in enumerate((1, workers)):
                    if turn == 0 and count == 1:
                        continue
                    jobs = [pool.submit(_work, name, passes, count > 1) for _ in range(count)]
                    slowest = max(job.result() for job in jobs)
                    if turn:
                        rates[name][side].append(count * passes * len(pairs) / slowest)
                    bar.update()
    return {name: (statistics.median(one), statistics.median(every)) for name, (one, every) in rates.items()}


_worker: dict[str, object] = {}


def _start_worker(pairs: list[Pair], together: Barrier) -> None:
    exit_with_parent()
    _one_thread()
    _worker.update(pairs=pairs, together=together, solvers={})


def _work(name: str, passes: int, together: bool) -> float:
    """Seconds that this worker takes for all pairs, `passes` times over."""
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
    """The methods that have a GPU version, if there is a GPU: `batch` copies of a pair at once, in the GPU's memory."""
    settings = {name: flow_settings(name) for name in names if _family(name) in ON_GPU and not is_rival(name)}
    if not settings:
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    solvers = {name: _module(flow).solver(getattr(flow, flow.method), "cuda") for name, flow in settings.items()}
    results = {f"{name}-cuda": Measured() for name in solvers}
    turns = [(name, pair) for pair in pairs for name in solvers]
    with _bar((1 + repeats) * len(turns), "GPU") as bar:
        for number, (name, pair) in itertools.product(range(1 + repeats), turns):
            result = results[f"{name}-cuda"]
            first, second = (torch.from_numpy(image).cuda().repeat(batch, 1, 1) for image in (pair.first, pair.second))

            def solve(name: str = name, first: torch.Tensor = first, second: torch.Tensor = second) -> torch.Tensor:
                flow = solvers[name].match_batch(first, second)
                torch.cuda.synchronize()
                return flow

            torch.cuda.synchronize()
            if number:
                result.rounds.setdefault(pair.name, []).append(_milliseconds(solve) / batch)
            else:
                start = time.perf_counter()
                flow = solve()
                if not result.epe:
                    result.first_ms = 1000 * (time.perf_counter() - start)
                result.epe[pair.name] = _checked_error(flow[-1].float().cpu().numpy(), pair, name)
                _milliseconds(solve)  # what is recorded or tuned at later calls of a size
            bar.update()
    return results


def _module(flow: Flow) -> ModuleType:
    return importlib.import_module(f"twostream.flow.{flow.method}")


def _bar(total: int, what: str) -> tqdm:
    # In a log file every refresh is a line.
    return tqdm(total=total, desc=what, unit="turn", leave=False, mininterval=0.1 if sys.stderr.isatty() else 10)


def _one_thread() -> None:
    cv2.setNumThreads(1)
    # Read when these libraries are first imported, which is later.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


def geometric_ratio(epe: dict[str, float], reference: dict[str, float]) -> float:
    """Geometric mean over the sequences of `epe` / `reference`; an EPE below a millionth of a pixel counts as that."""
    logs = [math.log(max(epe[sequence], 1e-6) / max(reference[sequence], 1e-6)) for sequence in reference]
    return math.exp(statistics.fmean(logs))


def as_json(results: dict[str, Measured]) -> dict[str, dict[str, dict]]:
    """The figures by method; ratios to OpenCV's TV-L1 are None where that did not run."""
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
    """What people read: errors and times, ratios to the references that ran, errors by sequence."""
    rows = [["method", "mean EPE", "ms a pair", "in a video", "first call"]]
    if workers > 1:
        rows[0] += ["pairs/s, 1 core", f"pairs/s, {workers}", "ratio"]
    for name, one in results.items():
        rows.append([name, f"{one.epe_mean:.3f}", *(_short(ms) for ms in (one.ms, one.video_ms, one.first_ms))])
        if workers > 1:
            rates = one.rates or (math.nan, math.nan)
            rows[-1] += [_short(rates[0]), _short(rates[1]), _short(rates[1] / rates[0])]
    parts = [_table(rows)]
    for reference in (name for name in REFERENCES if name in results):
        base = results[reference]
        rows = [[f"beside {reference}", "EPE, ratio of means", "EPE, geometric mean of ratios", "times as fast"]]
        for name, one in results.items():
            geometric = f"{geometric_ratio(one.epe, base.epe):.3f}"
            rows.append([name, f"{one.epe_mean / base.epe_mean:.3f}", geometric, _short(base.ms / one.ms)])
        parts.append(_table(rows))
    sequences = list(next(iter(results.values())).epe)
    rows = [["EPE by sequence", *sequences]]
    rows += [[name, *(f"{one.epe[sequence]:.3f}" for sequence in sequences)] for name, one in results.items()]
    parts.append(_table(rows))
    for name, one in results.items():
        if one.busy_cores > 1.2:
            parts.append(f"note: {name} kept {one.busy_cores:.1f} cores busy, so its times are not those of one core")
    least = min((one.busy_cores for one in results.values() if one.busy_cores > 0), default=1.0)
    if least < 0.9:
        parts.append(f"note: others used this machine: {100 * least:.0f} % of a core was had, so only ratios count")
    return "\n\n".join(parts)


def _family(name: str) -> str:
    return name.partition("-")[0] + ("-cuda" if name.endswith("-cuda") else "")


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join(lines)


def _short(value: float) -> str:
    """Three figures."""
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _size(text: str) -> tuple[int, int] | None:
    if text == "native":
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= SMALLEST):
        raise argparse.ArgumentTypeError(f"{text!r} is not native, nor WIDTHxHEIGHT of {SMALLEST} pixels or more")
    return int(width), int(height)


def _check_writable(path: Path | None) -> None:
    """Tell before the minutes of measuring what would fail after them."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise UserError(f"{path}: cannot be written; name a file in a folder that exists")


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    main()
