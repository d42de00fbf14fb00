"""Measure what each switch of PyTorch costs or saves in a training step, on a batch that stays in memory.

    python benchmarks/training_step.py [--cases resnet50 ...] [--steps 4] [--repeats 5]

All variants of a network start from the same weights and take turns. On a CPU the time is processor time, so that other
programs hardly count. The last column says whether the weights after all steps are those of the first variant, byte for
byte.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from command import positive, run, short
from torch.nn import functional

from twostream.core.allocator import keep_freed_memory
from twostream.core.parallel import progress
from twostream.networks.names import CHANNELS
from twostream.networks.registry import create_model
from twostream.streams.gpu import prefer_channels_last
from twostream.views.loading import normalise

CLASSES = 101
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


class Case(NamedTuple):
    """A network and what it reads; `batch` is the number of clips per step on a CPU, and a GPU gets 8 times as many."""

    model: str
    modality: str
    segments: int
    frames: int
    size: int
    batch: int

    @property
    def clips(self) -> int:
        return self.batch * (8 if ON_GPU else 1)


CASES = {
    "resnet50": Case("resnet50", "rgb", 3, 1, 224, 8),
    "cnn3d_v1": Case("cnn3d_v1", "rgb", 1, 16, 112, 4),
    "flow3d": Case("flow3d", "flow", 1, 16, 64, 12),
    "i3d": Case("i3d", "rgb", 1, 32, 224, 2),
    "s3d": Case("video/s3d", "flow", 1, 64, 224, 2),
    "resnet18": Case("resnet18", "rgb", 3, 1, 64, 12),
}


class Switches(NamedTuple):
    """Settings of PyTorch; the defaults are those of training."""

    fill: bool = False  # fill memory that was not initialised, a debugging aid of deterministic mode
    deterministic: bool = True
    search: bool = False  # let cuDNN measure which algorithm is the fastest
    channels_last: bool = True
    mixed: bool = True  # bfloat16 where that is safe


AS_TRAINED = Switches()
VARIANTS = {
    "as trained": AS_TRAINED,
    "memory filled": Switches(fill=True),
    "not deterministic": Switches(deterministic=False),
}
GPU_VARIANTS = {
    "not deterministic, cuDNN searches": Switches(deterministic=False, search=True),
    "channels first": Switches(channels_last=False),
    "32 bit": Switches(mixed=False),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print; a UserError is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        description="Time of a training step by switch of PyTorch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES)[:3], help="networks to train")
    parser.add_argument("--steps", type=positive, default=20 if ON_GPU else 2, help="steps per turn")
    parser.add_argument("--repeats", type=positive, default=5, help="timed rounds")
    run(_run, parser.parse_args(arguments))


def _run(args: argparse.Namespace) -> None:
    where = "GPU, wall-clock time" if ON_GPU else f"CPU, {torch.get_num_threads()} threads, processor time"
    print(f"{where}, median of {args.repeats} rounds of {args.steps} steps")
    rows = [row for name in args.cases for row in measure(CASES[name], args.steps, args.repeats)]
    print(pd.DataFrame(rows).to_string(index=False, float_format=short))


def measure(case: Case, steps: int, repeats: int) -> Iterator[dict[str, object]]:
    """Yield a row per variant: milliseconds per step, their ratio to the first variant, and whether it trains the same.

    Args:
        steps: number of steps per turn; each of `repeats` rounds gives every variant one turn.
    """
    variants = VARIANTS | (GPU_VARIANTS if ON_GPU else {})
    generator = torch.Generator().manual_seed(0)
    shape = (case.clips, case.segments, CHANNELS[case.modality], case.frames, case.size, case.size)
    views = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(DEVICE)
    labels = torch.randint(CLASSES, (case.clips,), generator=generator).to(DEVICE)
    trained = {name: make_step(case, switches) for name, switches in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    with progress((1 + repeats) * len(variants), case.model, "turn") as bar:
        for _ in range(1 + repeats):
            for name, switches in variants.items():
                set_switches(switches)
                _, step = trained[name]
                times[name].append(1000 * _seconds(lambda step=step: step(views, labels), steps) / steps)
                bar.update()
            if not ON_GPU:
                keep_freed_memory()  # as in training: after a step, when the process is as large as it gets
    first, *_ = variants
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, (model, _) in trained.items():
        same = _digest(model) == _digest(trained[first][0])
        row = {"network": case.model, "variant": name, "ms per step": medians[name]}
        yield row | {"ratio": medians[name] / medians[first], "same weights": "yes" if same else "no"}


def make_step(
    case: Case, switches: Switches = AS_TRAINED
) -> tuple[torch.nn.Module, Callable[[torch.Tensor, torch.Tensor], None]]:
    """Return a network with random weights, the same each time, and the training step on views and labels."""
    torch.manual_seed(0)
    model = create_model(
        case.model,
        modality=case.modality,
        classes=CLASSES,
        frames=case.frames,
        weights="none",
        input_size=case.size,
    ).to(DEVICE)
    if switches.channels_last:
        prefer_channels_last(model, DEVICE)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9)

    def step(views: torch.Tensor, labels: torch.Tensor) -> None:
        views, labels = (tensor.to(DEVICE, non_blocking=True) for tensor in (views, labels))
        with torch.autocast("cuda", torch.bfloat16, enabled=ON_GPU and switches.mixed):
            loss = functional.cross_entropy(model(normalise(views, **model.normalisation)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return model, step


def set_switches(switches: Switches = AS_TRAINED) -> None:
    """Set the switches that hold for all networks of this process."""
    torch.utils.deterministic.fill_uninitialized_memory = switches.fill
    torch.use_deterministic_algorithms(switches.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = switches.search


def synchronise() -> None:
    """Wait until the GPU has done its work, if there is one."""
    if ON_GPU:
        torch.cuda.synchronize()


def _seconds(step: Callable[[], None], steps: int) -> float:
    clock = time.perf_counter if ON_GPU else time.process_time
    synchronise()
    start = clock()
    for _ in range(steps):
        step()
    synchronise()
    return clock() - start


def _digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
