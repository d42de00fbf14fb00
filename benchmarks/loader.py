"""How fast training views are read, beside the usual loader, and whether a training step has to wait for them.

    python benchmarks/loader.py [--videos data/videos] [--short-side 240] [--skip-step]

The usual loader reads a JPEG file a frame (two a flow field, x and y) with Pillow and sends each through torchvision's
transforms: crop and resize, mirror image, brightness, contrast, saturation, to a tensor, normalisation. Both make the
same crops of the same frames at the same strength of augmentation. In every round they take turns over all clips, on
one thread; the table gives medians. Then a training step of a network is timed in turns on batches from our loader
with all its workers and on one batch that stays in memory.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from command import positive, run
from extraction import find_clips
from flow_methods import flow_settings
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as transforms
from tqdm import tqdm

from twostream.clipstore import ClipReader
from twostream.clipstore.extract import extract
from twostream.core.allocator import keep_freed_memory
from twostream.core.cache import FileCache
from twostream.networks.registry import create_model
from twostream.params import Augment, Rgb, Sampling
from twostream.views.gpu_decode import EncodedViews, make_views
from twostream.views.loading import EpochSampler, Example, TrainingViews, make_loader, normalise
from twostream.views.sampling import training_frames
from twostream.views.transforms import View, draw_view

QUALITY = 92
# Name: modality, segments, frames, side of the network's input. The first row's is TSN's, the others are 3D networks'.
CASES = {
    "rgb 3x1 224": ("rgb", 3, 1, 224),
    "rgb 1x16 112": ("rgb", 1, 16, 112),
    "rgb 1x16 224": ("rgb", 1, 16, 224),
    "flow 3x5 224": ("flow", 3, 5, 224),
    "flow 1x16 112": ("flow", 1, 16, 112),
}
AUGMENT = {"scales": [1.0, 0.875, 0.75, 0.66], "flip": True, "gamma": 0.0, "dark": 0.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print; a UserError is one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Clips a second of our loader and of the usual one, and of a step.")
    parser.add_argument("--videos", type=Path, default=Path("data/videos"), help="folder of videos (data/videos)")
    parser.add_argument("--clips", type=positive, default=24, help="how many clips, the first by name (24)")
    parser.add_argument("--short-side", type=positive, default=240, metavar="PX", help="size of stored frames (240)")
    parser.add_argument("--jitter", type=float, default=0.2, help="strength of the colour jitter (0.2)")
    parser.add_argument("--repeats", type=positive, default=7, help="timed rounds (7)")
    parser.add_argument("--fresh-memory", action="store_true", help="do not keep freed memory on a CPU, to compare")
    parser.add_argument("--skip-step", action="store_true", help="time the loaders alone, without a training step")
    parser.add_argument("--model", default="resnet50", help="network of the step (resnet50)")
    parser.add_argument("--case", choices=list(CASES), default="rgb 3x1 224", help="what it trains on (rgb 3x1 224)")
    parser.add_argument("--batch-size", type=positive, help="clips a step (8, on a GPU 64)")
    parser.add_argument("--steps", type=positive, help="steps a turn (4, on a GPU 40)")
    parser.add_argument("--workers", type=int, default=0, help="the loader's processes; 0: one a core, 8 at most (0)")
    parser.add_argument("--decode", choices=("cpu", "device"), default="cpu", help="as train.decode (cpu)")
    given = parser.parse_args(arguments)
    run(_run, given)


def _run(given: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    threads = torch.get_num_threads()
    if not (given.fresh_memory or torch.cuda.is_available()):
        keep_freed_memory()  # as training does
    with tempfile.TemporaryDirectory() as folder:
        examples = prepare(given.videos, given.clips, given.short_side, Path(folder))
        torch.set_num_threads(1)
        print(f"{len(examples['rgb'])} clips, short side {given.short_side} px, median of {given.repeats} rounds")
        print(f"{'clips/s on one core':<20}{'usual':>8}{'ours':>8}{'ratio':>7}{'and normalised':>16}{'ratio':>7}")
        for name, rates in compare_loaders(examples, Path(folder), given.jitter, given.repeats).items():
            usual, ours, ready = rates
            print(f"{name:<20}{usual:>8.1f}{ours:>8.1f}{ours / usual:>7.1f}{ready:>16.1f}{ready / usual:>7.1f}")
        torch.set_num_threads(threads)
        if not given.skip_step:
            fed, memory = compare_step(examples, given)
            where = "GPU" if torch.cuda.is_available() else f"CPU, {threads} threads"
            print(f"a step of {given.model} on the {where}: {memory:.3f} s from memory, {fed:.3f} s from the loader,")
            print(f"which is {memory / fed:.1%} of the speed")


def prepare(videos: Path, count: int, short_side: int, folder: Path) -> dict[str, list[Example]]:
    """Clip files of both modalities, and beside them the same frames as JPEG files, in `folder/usual`."""
    clips = find_clips(videos, count)
    settings = {
        "rgb": Rgb(short_side=short_side, jpeg_quality=QUALITY),
        "flow": flow_settings("dis-fast", short_side=short_side, device="cpu"),
    }
    examples = {}
    for modality, section in settings.items():
        extract(clips, videos, folder / modality, section, FileCache(folder / "cache", None), 0)
        examples[modality] = [Example(name, folder / modality / f"{name}.zip", 0) for name in clips["clip_id"]]
        for example in tqdm(examples[modality], desc=f"{modality}: a file a frame", unit="clip", leave=False):
            _unpack(example, modality, folder / "usual" / modality / example.clip_id)
    return examples


def _unpack(example: Example, modality: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(example.path) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            if modality == "rgb":
                (folder / name).write_bytes(data)
                continue
            halves = np.hsplit(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE), 2)
            for axis, half in zip("xy", halves, strict=True):
                _, encoded = cv2.imencode(".jpg", half, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                (folder / f"{axis}{name}").write_bytes(encoded.tobytes())


class UsualViews(Dataset):
    """A JPEG file a frame, Pillow, and torchvision's transforms a frame: normalised float32 [S, C, L, H, W]."""

    def __init__(self, views: TrainingViews, folder: Path, modality: str):
        self.views, self.folder, self.modality = views, folder, modality
        self.clips = []
        for example in views.examples:
            with ClipReader(example.path) as clip:
                self.clips.append((len(clip), clip.meta["width"], clip.meta["height"]))

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, at: tuple[int, int]) -> tuple[torch.Tensor, int]:
        """What `TrainingViews` draws, in the usual way."""
        _, index = at
        example, (count, width, height) = self.views.examples[index], self.clips[index]
        rng = np.random.default_rng((self.views.seed, *at))
        numbers = training_frames(count, self.views.sampling, rng)
        view = draw_view(width, height, self.views.augment, rng)
        factors = 1 + self.views.augment.jitter * rng.uniform(-1, 1, 3)
        frames = [self._frame(self.folder / example.clip_id, number, view, factors) for number in numbers.ravel()]
        return torch.stack(frames).unflatten(0, numbers.shape).transpose(1, 2), example.label

    def _frame(self, folder: Path, number: int, view: View, factors: np.ndarray) -> torch.Tensor:
        if self.modality == "rgb":
            return self._transformed(folder / f"{number + 1:05d}.jpg", "RGB", view, factors, negated=False)
        planes = [
            self._transformed(
                folder / f"{axis}{number + 1:05d}.jpg", "L", view, None, negated=axis == "x" and view.flip
            )
            for axis in "xy"
        ]
        return torch.cat(planes)

    def _transformed(
        self, path: Path, mode: str, view: View, factors: np.ndarray | None, negated: bool
    ) -> torch.Tensor:
        with open(path, "rb") as file:
            image = Image.open(file).convert(mode)
        image = transforms.resized_crop(image, view.top, view.left, view.side, view.side, [self.views.size] * 2)
        if view.flip:
            image = transforms.hflip(image)
        if negated:
            image = transforms.invert(image)
        if factors is not None:
            image = transforms.adjust_brightness(image, factors[0])
            image = transforms.adjust_contrast(image, factors[1])
            image = transforms.adjust_saturation(image, factors[2])
        tensor = transforms.to_tensor(image)
        return transforms.normalize(tensor, [0.45] * len(tensor), [0.226] * len(tensor))


def compare_loaders(
    examples: dict[str, list[Example]], folder: Path, jitter: float, repeats: int
) -> dict[str, tuple[float, float, float]]:
    """Clips a second of processor time: the usual loader, ours (uint8), and ours normalised to float32 too."""
    rates = {}
    bar = tqdm(total=len(CASES) * (repeats + 1), unit="round", leave=False, mininterval=0.1 if _terminal() else 10)
    with bar:
        for name, (modality, segments, frames, size) in CASES.items():
            sampling, augment = _recipe(modality, segments, frames, jitter)
            views = TrainingViews(examples[modality], sampling, augment, size, seed=0)
            usual = UsualViews(views, folder / "usual" / modality, modality)
            seconds: list[list[float]] = []
            for epoch in range(repeats + 1):  # the first one compiles, and reads the files into the system's memory
                turns = (_pass(usual, epoch), _pass(views, epoch), _pass(views, epoch, normalised=True))
                seconds += [list(turns)] if epoch else []
                bar.update()
            rates[name] = tuple(len(views) / statistics.median(times) for times in zip(*seconds, strict=True))
    return rates


def _pass(views: Dataset, epoch: int, normalised: bool = False) -> float:
    """Processor seconds of this process for an epoch in batches of 8, collation counted, without workers."""
    collate = {} if isinstance(views, UsualViews) else {"collate_fn": lambda batch: batch}
    loader = DataLoader(views, 8, sampler=EpochSampler(len(views), 0, lambda: epoch), **collate)
    start = time.process_time()
    for batch, _ in loader:
        if normalised:
            normalise(batch, [114.75] * batch.shape[2], [57.6] * batch.shape[2])
    return time.process_time() - start


def compare_step(examples: dict[str, list[Example]], given: argparse.Namespace) -> tuple[float, float]:
    """Median seconds a step: fed by the loader, and from memory."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    size, count = given.batch_size or (64 if on_gpu else 8), given.steps or (40 if on_gpu else 4)
    modality, segments, frames, side = CASES[given.case]
    sampling, augment = _recipe(modality, segments, frames, given.jitter)
    # Enough clips for a turn and for what the workers have read ahead when it starts.
    many = examples[modality] * -(-size * (count + 20) // len(examples[modality]))
    views = TrainingViews(many, sampling, augment, side, 0, encoded=given.decode == "device")
    loader = make_loader(views, size, given.workers, EpochSampler(len(many), 0, lambda: 0))
    step = _make_step(given, device)
    ahead = 2 * loader.num_workers
    seconds: list[tuple[float, float]] = []
    for turn in tqdm(range(1 + given.repeats), unit="turn", leave=False, mininterval=0.1 if _terminal() else 10):
        batches = iter(loader)
        kept = next(batches)
        for _ in range(ahead if on_gpu else 0):
            step(next(batches))  # so that none of those timed was made while nobody trained
        fed = _timed(step, batches, count)
        del batches
        memory = _timed(step, _again(kept, device), count)
        seconds += [(fed / count, memory / count)] if turn else []
    return tuple(statistics.median(times) for times in zip(*seconds, strict=True))


def _recipe(modality: str, segments: int, frames: int, jitter: float) -> tuple[Sampling, Augment]:
    sampling = Sampling(mode="segments", segments=segments, frames=frames, stride=1)
    return sampling, Augment(**AUGMENT, jitter=jitter if modality == "rgb" else 0.0)


def _make_step(given: argparse.Namespace, device: torch.device) -> Callable[[tuple], None]:
    modality, _, frames, side = CASES[given.case]
    model = create_model(
        given.model, modality=modality, classes=101, frames=frames, dropout=0.0, weights="none", input_size=side
    ).to(device)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9)

    def step(batch: tuple) -> None:
        views, labels = _on(batch, device)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = functional.cross_entropy(model(normalise(views, **model.normalisation)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _on(batch: tuple, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    views, labels = batch
    views = make_views(views, device) if isinstance(views, EncodedViews) else views.to(device, non_blocking=True)
    return views, labels.to(device, non_blocking=True)


def _again(batch: tuple, device: torch.device) -> Iterator[tuple]:
    return itertools.repeat(_on(batch, device))


def _timed(step: Callable[[tuple], None], batches: Iterator[tuple], count: int) -> float:
    """Seconds of `count` steps, after one more that is not timed."""
    step(next(batches))
    _wait()
    start = time.perf_counter()
    for _ in range(count):
        step(next(batches))
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _terminal() -> bool:
    return sys.stderr.isatty()  # in a log file every refresh is a line


if __name__ == "__main__":
    main()
