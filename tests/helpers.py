"""What several test modules share: small real files written through a codec, and where test data lie."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import yaml

from twostream import params
from twostream.profiles import load_profile

ROOT = Path(__file__).parents[1]
# Real clips, flow with ground truth, weights and split files, which are not in this repository; see CONTRIBUTING.md.
TEST_DATA = Path(os.environ.get("TWOSTREAM_TEST_DATA", ROOT / "no-test-data"))


def write_video(path: Path, frames: list[np.ndarray], rate: int = 25, codec: str | None = None) -> Path:
    """Encode uint8 [H, W, 3] RGB frames; the container follows from the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = codec or ("flv" if path.suffix == ".flv" else "mpeg4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A second of silence and no video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return path


def moving_texture(count: int, height: int = 48, width: int = 64, step: int = 2, seed: int = 0) -> list[np.ndarray]:
    """A smooth random texture that moves `step` pixels a frame to the right."""
    import cv2

    rng = np.random.default_rng(seed)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (height, width + step * count, 3)).astype(np.uint8), (0, 0), 2)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX)
    return [np.ascontiguousarray(wide[:, step * (count - i) : step * (count - i) + width]) for i in range(count)]


def dataset_settings(**changes: object) -> params.Dataset:
    """The `dataset` section of the demo profile with one split and some values changed."""
    values = load_profile("demo")["dataset"]
    return params.Dataset(**{**values, "splits": [1], **changes})


def as_pulled(output: str, objects: str) -> None:
    """Move a folder into a store of objects as DVC has them after `dvc pull`, and write dvc.lock."""
    listing = []
    for file in sorted(path for path in Path(output).rglob("*") if path.is_file()):
        listing.append({"md5": _as_object(file.read_bytes(), objects), "relpath": str(file.relative_to(output))})
    digest = _as_object(json.dumps(listing).encode(), objects, ".dir")
    lock = {"schema": "2.0", "stages": {"some": {"outs": [{"path": output, "md5": digest}]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.rmtree(output)


def _as_object(content: bytes, objects: str, ending: str = "") -> str:
    digest = hashlib.md5(content).hexdigest() + ending
    file = Path(objects, digest[:2], digest[2:])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return digest
