"""How well copies of videos are distinguished from other videos: real clips, and altered copies of some of them.

Prints the largest correlation between two different clips, which must not be copies of each other, and for each
alteration how many copies are missed and the smallest correlation. Usage:
`python benchmarks/duplicates.py --videos DIR [DIR ...] --copies 46`
"""

from __future__ import annotations

import argparse
import base64
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from twostream.core.parallel import unordered
from twostream.datasets import is_video
from twostream.datasets.duplicates import FRAMES, LENGTHS, SAME, SIDE, Fingerprint, normalized
from twostream.sources.walk import walk_files
from twostream.video import read_frames
from twostream.video.probe import probe

Change = Callable[[np.ndarray], np.ndarray]
Measured = tuple[Path, float, np.ndarray]  # a video, its seconds and the images of its fingerprint


def cut(part: float) -> Change:
    """Return a function that cuts this part of the height and width off a frame."""

    def inner(frame: np.ndarray) -> np.ndarray:
        y, x = (int(side * part / 2) for side in frame.shape[:2])
        return frame[y : len(frame) - y, x : frame.shape[1] - x]

    return inner


# How the frames are changed, the codec with an option, and the frame rate where it differs.
COPIES: dict[str, tuple[Change, str, dict[str, str], int]] = {
    "H.264, quality 35": (lambda frame: frame, "libx264", {"crf": "35"}, 0),
    "MPEG-4, 150 kbit/s": (lambda frame: frame, "mpeg4", {"b": "150000"}, 0),
    "half the size": (lambda frame: cv2.resize(frame, None, fx=0.5, fy=0.5), "libx264", {"crf": "28"}, 0),
    "mirrored": (lambda frame: frame[:, ::-1], "libx264", {"crf": "28"}, 0),
    "brighter": (lambda frame: (frame * 0.8 + 40).astype(np.uint8), "libx264", {"crf": "28"}, 0),
    "20 frames per second": (lambda frame: frame, "libx264", {"crf": "28"}, 20),
    "5 % cut off": (cut(0.05), "libx264", {"crf": "28"}, 0),
    "10 % cut off": (cut(0.1), "libx264", {"crf": "28"}, 0),
}


def write_copy(video: Path, kind: str, target: Path) -> None:
    change, codec, options, new_rate = COPIES[kind]
    frames, rate = list(read_frames(video)), probe(video).fps
    if new_rate:
        frames = [frames[int(n * rate / new_rate)] for n in range(int(len(frames) * new_rate / rate))]
    with av.open(str(target), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(new_rate or rate).limit_denominator(1000), options=options)
        for frame in map(change, frames):
            frame = np.ascontiguousarray(frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2])
            stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def measure(video: Path) -> Measured:
    fingerprint = Fingerprint()
    found = probe(video, fingerprint.add)
    images = np.frombuffer(base64.b64decode(fingerprint.text()), np.uint8)
    return video, found.frames / found.fps, images.reshape(FRAMES, SIDE, SIDE).astype(np.float32)


def measure_with_copies(video: Path) -> list[tuple[str, Measured]]:
    measured = []
    for kind in COPIES:
        with tempfile.TemporaryDirectory() as folder:
            write_copy(video, kind, target := Path(folder, "copy.mkv"))
            measured.append((kind, (video, *measure(target)[1:])))
    return measured


def correlations(clips: list[Measured], others: list[Measured]) -> np.ndarray:
    """Return the correlation [len(clips), len(others)] of clips as the search for copies takes it."""
    (seconds, images), (other_seconds, other_images) = (
        (np.array([clip[1] for clip in side]), np.array([clip[2] for clip in side])) for side in (clips, others)
    )
    mean, changes = normalized(images)
    views = [normalized(other_images), normalized(other_images[..., ::-1])]
    best = np.max([np.minimum(mean @ means.T, changes @ view.T) for means, view in views], axis=0)
    ratio = np.abs(np.log(seconds[:, None] / other_seconds))
    return np.where(ratio <= np.log(LENGTHS), best, -1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, nargs="+", required=True)
    parser.add_argument("--copies", type=int, default=46, help="clips of which copies are made")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    videos = [root / path for root in args.videos for path in walk_files(root) if is_video(path)]
    clips = sorted(unordered(measure, videos, workers=args.workers, what="clips"), key=lambda clip: clip[0])
    apart = correlations(clips, clips)[np.triu_indices(len(clips), 1)]
    print(
        f"{len(clips)} clips, {len(apart):,} pairs: {(apart >= SAME).sum()} taken for copies, largest {apart.max():.2f}"
    )
    copied = clips[:: max(1, len(clips) // args.copies)][: args.copies]
    copies = [
        one
        for found in unordered(measure_with_copies, [clip[0] for clip in copied], workers=args.workers, what="copies")
        for one in found
    ]
    for kind in COPIES:
        same = [(copy, next(clip for clip in copied if clip[0] == copy[0])) for name, copy in copies if name == kind]
        found = np.array([correlations([copy], [clip])[0, 0] for copy, clip in same])
        print(f"{kind:<22} {(found < SAME).sum()} of {len(found)} missed, smallest {found.min():.2f}")


if __name__ == "__main__":
    main()
