"""The parts of the check of the GPU code: each yields the rows of a table of docs/gpu.md. See `gpu_check.py`.

The most important parts come first. Each imports what it needs: the document can be written without PyTorch.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from twostream.core.parallel import cores

HEIGHT, WIDTH = 256, 340  # of frames: those of HMDB51 with a short side of 256
BATCH = 64  # pairs
BOUND_PX = 20.0
Row = dict[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Setup:
    """What the parts share: the data of `--prepare`, a folder to work in, and whether all is tiny and on the CPU."""

    data: Path
    work: Path
    dry: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    def size(self, usual: Value, tiny: Value) -> Value:
        return tiny if self.dry else usual


Rows = Callable[[Setup], Iterator[Row]]


class Part(NamedTuple):
    """A part of the check: its function, its section in the document, and the seconds that it may take."""

    rows: Rows
    title: str
    text: str
    seconds: int


PARTS: dict[str, Part] = {}


def _part(title: str, text: str, seconds: int) -> Callable[[Rows], Rows]:
    def register(rows: Rows) -> Rows:
        PARTS[rows.__name__] = Part(rows, title, text, seconds)
        return rows

    return register


@_part("Machine", "", 30)
def machine(setup: Setup) -> Iterator[Row]:
    import torch

    row: Row = {"card": "a CPU (dry run)", "date": time.strftime("%Y-%m-%d"), "cores": cores()}
    row |= {name: version(name) for name in ("torch", "lightning", "numba")}
    if not setup.dry:
        card = torch.cuda.get_device_properties(0)
        source, target = (torch.zeros(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
        copy_ms = _milliseconds(setup, lambda: target.copy_(source))
        row |= {"card": card.name, "CUDA": torch.version.cuda, "triton": version("triton")}
        row |= {"multiprocessors": card.multi_processor_count, "L2 cache MB": card.L2_cache_size >> 20}
        row |= {"copies TB/s": 2 * source.numel() / copy_ms / 1e9}
    yield row


@_part(
    "Flow of the kernels",
    "The flow of the GPU and of the CPU, on pairs with known flow. To hold: a 99th percentile of at most 0.001 px, and "
    "the same EPE within 0.5 %.",
    90,
)
def kernels(setup: Setup) -> Iterator[Row]:
    from groundtruth import end_point_error, read_pairs

    from twostream.flow.encoding import encode_flow
    from twostream.flow.methods.tvl1 import PRESETS, Tvl1Cpu
    from twostream.flow.methods.tvl1.torch import EAGER

    pairs = read_pairs(setup.data / "pairs")[: setup.size(None, 1)]
    first, second = (np.stack([getattr(pair, name) for pair in pairs]) for name in ("first", "second"))
    for preset in setup.size(list(PRESETS), ["fast"]):
        solver, cpu = _solver(setup, preset), Tvl1Cpu(PRESETS[preset])
        flow, codes = solver.match_batch(first, second).cpu().numpy(), solver.code_batch(first, second, BOUND_PX)
        expected = np.stack([cpu(pair.first, pair.second) for pair in pairs])
        apart = np.abs(flow - expected)
        row = {"preset": preset, "kernels": "PyTorch" if solver.steps is EAGER else "Triton"}
        row |= {"difference, mean px": float(apart.mean()), "99th percentile": float(np.quantile(apart, 0.99))}
        row |= {"largest": float(apart.max())}
        for device, flows in (("CPU", expected), ("GPU", flow)):
            row[f"EPE on the {device}"] = float(np.mean(list(map(end_point_error, flows, pairs))))
        right = codes.cpu().numpy().swapaxes(2, 3) == encode_flow(flow, BOUND_PX)
        yield row | {"codes as on the CPU": bool(right.all())}


@_part("Flow repeats", "Whether a pair has the same flow, byte for byte, whatever else is solved.", 60)
def same_bytes(setup: Setup) -> Iterator[Row]:
    import torch

    from twostream.flow.methods.tvl1.torch import GRAPHS

    solver, count = _solver(setup), setup.size(BATCH, 3)
    for height, width in setup.size([(HEIGHT, WIDTH), (240, 424)], [(48, 62)]):
        first, second = moving_textures(count, height, width)
        whole, *again = (solver.match_batch(first, second) for _ in range(3))
        order = np.random.default_rng(0).permutation(count)
        alone = [solver.match_batch(first[k : k + 1], second[k : k + 1]) for k in range(3)]
        for what, same in {
            "recorded as a CUDA graph": all(torch.equal(flow, whole) for flow in again),
            "pairs in another order": torch.equal(solver.match_batch(first[order], second[order]), whole[order]),
            "a pair alone": torch.equal(torch.cat(alone), whole[:3]),
        }.items():
            yield {"size": f"{width}x{height}", "what": what, "same bytes": same}
    shapes = [(2, 32 + 8 * k, 48) for k in range(setup.size(GRAPHS + 4, 2))]
    once, *again = ([solver.match_batch(*moving_textures(*shape)) for shape in shapes] for _ in range(3))
    same = all(torch.equal(a, b) for turn in again for a, b in zip(turn, once, strict=True))
    yield {"size": f"{len(shapes)} sizes", "what": "more sizes than graphs are kept", "same bytes": same}


@_part("Speed of the solver", f"Grey images of {WIDTH}x{HEIGHT} to 8-bit codes, both in the memory of the GPU.", 45)
def solver(setup: Setup) -> Iterator[Row]:
    cases = itertools.product(("balanced", "fast", "accurate"), (1, 16, BATCH))
    for preset, count in setup.size(cases, [("fast", 2)]):
        call = _solve_textures(setup, preset, count)
        ms = _milliseconds(setup, call)
        yield {"preset": preset, "pairs at once": count, "ms": ms, "pairs/s": 1000 * count / ms}


@_part("Extraction", "Video files to packed flow. The solver alone includes copies to and from the GPU.", 90)
def extraction(setup: Setup) -> Iterator[Row]:
    from extraction import find_clips, measure
    from flow_methods import flow_settings

    videos = _copies(setup, setup.size(8, 1))
    clips = find_clips(videos, setup.size(10_000, 2))
    pairs = int((clips["frames"] - 1).sum())
    cases = [("tvl1-balanced", "cuda"), ("tvl1-fast", "cuda"), ("tvl1-fast", "cpu")]
    for method, device in setup.size(cases, cases[2:]):
        workers = setup.size(cores() * (2 if device == "cuda" else 1), 1)
        settings = flow_settings(method, short_side=setup.size(HEIGHT, 32), device=device)
        alone, whole = measure(clips, videos, {method: settings}, [workers], 1).iloc[0]
        row = {"method": method, "device": device, "clips": len(clips), "processes": workers}
        yield row | {"solver alone, pairs/s": pairs / alone, "extraction, pairs/s": pairs / whole}


@_part(
    "Training fed by the loader",
    "A training step on a batch that stays in memory, and its speed when it is fed with frames that are decoded, or "
    "kept in shared memory after the first epoch. To hold: at least 0.9.",
    150,
)
def fed_steps(setup: Setup) -> Iterator[Row]:
    from loader import measure
    from training_step import CASES, set_switches

    set_switches()
    examples = _packed(setup)
    wanted = argparse.Namespace(steps=setup.size(15, 1), repeats=setup.size(2, 1), workers=setup.size(0, 1))
    for name in setup.size(["resnet50", "cnn3d_v1", "i3d", "s3d"], ["flow3d"]):
        case = setup.size(CASES[name], CASES[name]._replace(size=32, frames=8, batch=2))
        memory, decoded, kept = measure(case, examples[case.modality], wanted)
        row = {"network": name, "ms per step": 1000 * memory}
        yield row | {"speed, frames decoded": memory / decoded, "speed, frames kept": memory / kept}


@_part(
    "The same recipe on both devices",
    "The stream `temporal` of the profile `folder` from random weights, twice on the GPU and once on the CPU.",
    100,
)
def recipe(setup: Setup) -> Iterator[Row]:
    from twostream.streams.fitting import fit
    from twostream.streams.task import Arithmetic, Processes, Task

    examples = _packed(setup)["flow"]
    val = examples[::3]
    stream = _stream("temporal", **setup.size({}, {"model": "flow3d", "size": 32, "epochs": 1, "batch_size": 2}))
    classes = [str(label) for label in sorted({example.label for example in examples})]
    task = Task("temporal", "flow", stream, classes, [one for one in examples if one not in val], val, 0, "auto")
    cpu, gpu = Arithmetic("cpu", "32-true"), Arithmetic("cuda", "bf16-mixed")
    for turn, arithmetic in enumerate(setup.size([gpu, gpu, cpu], [cpu])):
        start = time.perf_counter()
        trained = fit(task, setup.work / f"{turn}.ckpt", _NoCurves(), setup.size(0, 1), arithmetic, Processes(1, 1))
        last = trained.history[-1]
        row = {"device": arithmetic.device, "epochs": last["epoch"], "seconds": time.perf_counter() - start}
        row |= {"validation loss": last["val_loss"], "top-1": last["val_top1"]}
        yield row | {"weights": hashlib.md5(trained.weights).hexdigest()[:8]}


@_part("Frozen features", "What a head (`tune: head`) learns from, here of a network with random weights.", 60)
def frozen_features(setup: Setup) -> Iterator[Row]:
    import torch

    from twostream.networks.registry import create_model
    from twostream.streams.config import head_protocol
    from twostream.streams.frozen import compute_features

    size, frames, workers = setup.size(224, 32), setup.size(32, 8), setup.size(0, 1)
    settings = _stream("spatial", size=size, sampling={"mode": "uniform", "segments": 1, "frames": frames, "stride": 1})
    for modality, examples in list(_packed(setup).items())[: setup.size(2, 1)]:
        torch.manual_seed(0)
        options = {"modality": modality, "classes": 101, "frames": frames, "weights": "none", "input_size": size}
        model, expected = create_model("i3d", **options).eval(), None
        for device in ("cpu", setup.device):
            start = time.perf_counter()
            some, protocol = examples[: setup.size(None, 2)], head_protocol(settings.sampling, modality == "flow")
            args = settings, protocol, model.normalisation, torch.device(device), some, workers
            features = np.stack(list(compute_features(model.to(device), *args)))
            row = {"network": "i3d", "modality": modality, "device": device}
            row["clips/s"] = len(features) / (time.perf_counter() - start)
            expected = features if expected is None else expected
            apart = np.linalg.norm(features - expected) / np.linalg.norm(expected)
            yield row | {"relative difference from the CPU": float(apart)}


@_part(
    "Flow methods",
    "End-point error and time per pair (`benchmarks/flow.py`): our solver on the CPU and the GPU (`-cuda`), and "
    "`nvof`, the optical-flow engine that the chip has built in, where its package is installed.",
    60,
)
def methods(setup: Setup) -> Iterator[Row]:
    from flow import available, measure, measure_on_gpu
    from flow_methods import NVIDIA, named_solver
    from groundtruth import read_pairs

    wanted = ["tvl1-fast", "tvl1-balanced", "tvl1-accurate", "dis-medium", *NVIDIA]
    names, pairs = available(setup.size(wanted, wanted[::4])), read_pairs(setup.data / "pairs")[: setup.size(None, 1)]
    results = measure({name: named_solver(name) for name in names if name not in NVIDIA}, pairs, 1)
    for name, one in {**results, **measure_on_gpu(names, pairs, setup.size(5, 1))}.items():
        yield {"method": name, "mean EPE px": one.epe_mean, "ms per pair": one.ms}


@_part(
    "Switches of PyTorch",
    "Milliseconds per training step with other settings than those of training (`benchmarks/training_step.py`).",
    100,
)
def training_steps(setup: Setup) -> Iterator[Row]:
    from training_step import CASES, measure

    tiny = CASES["flow3d"]._replace(size=32, frames=8, batch=2)
    usual = [CASES[name] for name in ("resnet50", "i3d", "s3d", "cnn3d_v1", "flow3d")]
    for case in setup.size(usual, [tiny]):
        yield from measure(case, setup.size(5, 1), setup.size(2, 1))


@_part(
    "One iteration of the solver",
    "The step that takes most of the time: by size of the level, by number of pairs, and by tile of the kernel.",
    40,
)
def iterations(setup: Setup) -> Iterator[Row]:
    from twostream.flow.methods.tvl1.triton import OPTIONS

    shapes = [(BATCH, 256, 340), (BATCH, 128, 170), (BATCH, 64, 85), *((count, 256, 340) for count in (2, 4, 6, 8, 12))]
    for shape in setup.size(shapes, [(2, 16, 24)]):
        yield _iteration(setup, *shape)
    for tile in setup.size([(4, 64, 4), (2, 128, 4), (16, 32, 4), (8, 64, 4), (4, 32, 4)], []):
        OPTIONS.update(zip(("TILE_Y", "TILE_X", "num_warps"), tile, strict=True))
        yield _iteration(setup, *shapes[0])


def _iteration(setup: Setup, pairs: int, height: int, width: int) -> Row:
    import torch

    from twostream.flow.methods.tvl1 import PRESETS
    from twostream.flow.methods.tvl1.torch import EAGER, Linear, rates_of
    from twostream.flow.methods.tvl1.triton import KERNELS, OPTIONS, STATE_BYTES

    count, relax = 12, setup.size(KERNELS, EAGER).relax
    planes = (2, 4, 2, 1, 1)  # flow, duals, gradient, constant and weight
    flow, dual, *data = (torch.rand(pairs, n, height, width, device=setup.device) for n in planes)
    linear = Linear(data[0], data[1][:, 0], data[2][:, 0])
    ms = _milliseconds(setup, lambda: relax(flow, dual, linear, count, rates_of(PRESETS["balanced"]))) / count
    row = {"size": f"{width}x{height}", "pairs": pairs, "tile": f"{OPTIONS['TILE_Y']}x{OPTIONS['TILE_X']}"}
    row |= {"warps": OPTIONS["num_warps"], "µs per pair": 1000 * ms / pairs}
    return row | {"TB/s": STATE_BYTES * pairs * height * width / ms / 1e9}


@_part("Time by kernel", f"A batch of {BATCH} pairs of {WIDTH}x{HEIGHT} with the preset balanced.", 30)
def kernel_times(setup: Setup) -> Iterator[Row]:
    from torch.profiler import ProfilerActivity, profile

    count = setup.size(BATCH, 2)
    call = _solve_textures(setup, "balanced", count)
    for _ in range(3):
        call()
    with profile(activities=[setup.size(ProfilerActivity.CUDA, ProfilerActivity.CPU)]) as seen:
        call()
        _synchronise()
    kinds: dict[str, list[float]] = {}
    for event in seen.events():
        name = event.name if event.name.startswith(("_", "Mem")) else "of PyTorch"
        kinds.setdefault(name, []).append(event.time_range.elapsed_us())
    for name, times in sorted(kinds.items(), key=lambda item: -sum(item[1])):
        yield {"kernel": name, "calls": len(times), "µs per pair": sum(times) / count}


@_part("Little memory", "A batch that does not fit into the memory is halved; the codes stay the same.", 30)
def low_memory(setup: Setup) -> Iterator[Row]:
    import torch

    from twostream.flow.gpu_server import FlowServer, solve_remotely

    images = list(moving_textures(setup.size(65, 3), *_size(setup))[0])
    expected = None
    for share in setup.size([1.0, 0.01], [1.0]):
        if not setup.dry:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share)
        with FlowServer(_solver(setup), BOUND_PX) as server:
            codes = np.stack(list(solve_remotely(server.address, images)))
        expected = codes if expected is None else expected
        yield {"share of the memory": share, "pairs": len(codes), "same codes": bool((codes == expected).all())}


def moving_textures(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` pairs of textures, each with another smooth motion of some pixels: two uint8 [count, H, W]."""
    import cv2

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    first, second = np.empty((2, count, height, width), np.uint8)
    for k in range(count):
        noise = cv2.GaussianBlur(rng.integers(0, 256, (height, width)).astype(np.uint8), (0, 0), 1.5)
        first[k] = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
        u, v = 1.5 * np.sin(y / 29 + k) + 0.2 * (k % 16), np.cos(x / 31 + k)
        second[k] = cv2.remap(first[k], x - u, y - v, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return first, second


def _size(setup: Setup) -> tuple[int, int]:
    return setup.size((HEIGHT, WIDTH), (32, 48))


def _solver(setup: Setup, preset: str = "balanced") -> Any:
    from twostream.flow.methods.tvl1 import PRESETS
    from twostream.flow.methods.tvl1.torch import Tvl1Torch

    return Tvl1Torch(PRESETS[setup.size(preset, "fast")], setup.device)


def _solve_textures(setup: Setup, preset: str, count: int) -> Callable[[], object]:
    """Return a call that computes the codes of `count` pairs, from images on the device."""
    import torch

    one = _solver(setup, preset)
    first, second = (torch.from_numpy(images).to(setup.device) for images in moving_textures(count, *_size(setup)))
    return lambda: one.code_batch(first, second, BOUND_PX)


def _milliseconds(setup: Setup, call: Callable[[], object]) -> float:
    """Return the time of a call until the device is done, after calls that compile and record: a mean."""
    for _ in range(setup.size(3, 0)):
        call()
    repeats = setup.size(10, 1)
    _synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _synchronise()
    return 1000 * (time.perf_counter() - start) / repeats


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _copies(setup: Setup, count: int) -> Path:
    """Return a folder of `count` copies of every video, which differ after the end of its data: none is cached."""
    folder = setup.work / "videos"
    for path in (path for path in sorted((setup.data / "videos").rglob("*")) if path.is_file()):
        for copy in range(count):
            target = folder / f"{path.parent.name}_{copy}" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes() + bytes(copy))
    return folder


def _packed(setup: Setup) -> dict[str, list[Any]]:
    """Return the packed clips of both modalities."""
    from loader import prepare

    return prepare(setup.data / "videos", setup.size(10_000, 4), setup.size(HEIGHT, 48), setup.work / "packed")


def _stream(name: str, **changes: Any) -> Any:
    """Return a stream of the profile `folder` without loaded weights."""
    from twostream.params import Stream
    from twostream.profiles import load_profile

    values = load_profile("folder")["streams"][name]
    return Stream.model_validate(values | {"weights": "none", "tune": "all"} | changes)


class _NoCurves:
    """Stands for DVCLive's curves, which this machine may not have."""

    def update(self, history: list[dict[str, Any]]) -> None:
        pass
