"""Small videos with one property each: containers, codecs, pixel formats, flags and faults that real files have."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from helpers import moving_texture

FFMPEG = shutil.which("ffmpeg")
# The eight display matrices [a b; c d], and what a player then shows of an image.
MATRICES = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).swapaxes(0, 1),
}


def encode(
    path: Path,
    codec: str,
    frames: list[np.ndarray],
    pixel_format: str = "yuv420p",
    *,
    rate: int = 25,
    times: Iterable[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    sound: bool = False,
    flags: tuple[int, int] = (0, 2),
    aspect: Fraction | None = None,
) -> Path:
    """Encode uint8 [H, W, 3] RGB frames.

    Args:
        times: of the frames, in units of 1 / `rate`.
        options, container_options: of the encoder and of the container.
        sound: a second track with silence, as long as the video.
        flags: colour range and matrix, numbered as in ITU-T H.273.
        aspect: of a sample.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.color_range, stream.codec_context.colorspace = flags
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        audio = container.add_stream("mp2" if path.suffix == ".ts" else "aac", rate=48000) if sound else None
        for index, (image, time) in enumerate(zip(frames, times or range(len(frames)), strict=True)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            target = {"dst_color_range": flags[0], "dst_colorspace": 5 if flags[1] == 2 else flags[1]}
            frame = frame.reformat(format=pixel_format, src_color_range=2, src_colorspace=5, **target)
            frame.color_range, frame.colorspace = flags
            frame.pts, frame.time_base = time, Fraction(1, rate)
            container.mux(stream.encode(frame))
            if audio:
                _mux_silence(container, audio, index, 48000 // rate)
        container.mux(stream.encode())
        if audio:
            container.mux(audio.encode())
    return path


def _mux_silence(container: av.container.OutputContainer, stream: av.AudioStream, index: int, count: int) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, count), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, index * count, Fraction(1, 48000)
    container.mux(stream.encode(frame))


def copy_from(source: Path, target: Path, start: float, **options: str) -> Path:
    """Copy the packets from the key frame before `start` on; the copy is shown from `start` on."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as copy:
        track = given.streams.video[0]
        stream = copy.add_stream_from_template(track)
        first = round(start / track.time_base)
        given.seek(first, stream=track)
        for packet in given.demux(track):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, stream
                copy.mux(packet)
    return target


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix into the header of the track (ISO/IEC 14496-12, tkhd)."""
    a, b, c, d = matrix
    data = bytearray(path.read_bytes())
    at = data.index(_matrix(1, 0, 0, 1), data.index(b"tkhd"))
    data[at : at + 36] = _matrix(a, b, c, d)
    path.write_bytes(data)
    return path


def _matrix(a: int, b: int, c: int, d: int) -> bytes:
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return b"".join(value.to_bytes(4, "big", signed=True) for value in values)


def with_encryption(data: bytes) -> bytes:
    """Return a Matroska file whose header says that its only track is encrypted (RFC 9559, 5.1.4.1.31)."""
    method = _element("47e1", b"\5") + _element("47e2", bytes(16))
    kind = b"".join(_element(name, b"\1") for name in ("5032", "5033")) + _element("5035", method)
    start = data.rindex(bytes.fromhex("1654ae6b"))
    size, tracks = _size(data, start + 4)
    entry_size, entry = _size(data, data.index(b"\xae", tracks) + 1)
    changed = _element("ae", data[entry : entry + entry_size] + _element("6d80", _element("6240", kind)))
    return data[:start] + _element("1654ae6b", changed) + data[tracks + size :]


def _element(name: str, body: bytes) -> bytes:
    return bytes.fromhex(name) + (len(body) | 1 << 56).to_bytes(8, "big") + body


def _size(data: bytes, at: int) -> tuple[int, int]:
    """Return the size of an element that is written at `at`, and where its content starts."""
    length = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + length], "big") & (1 << 7 * length) - 1, at + length


def damaged(path: Path, kind: str, start: float = 0.35, end: float = 0.75, seed: int = 0) -> Path:
    """Overwrite a part of a file with zeros or random bytes, or cut it out; returns another file."""
    data = bytearray(path.read_bytes())
    first, last = int(start * len(data)), int(end * len(data))
    noise = random.Random(seed).randbytes(last - first)
    data[first:last] = {"zeros": bytes(last - first), "noise": noise, "cut": b""}[kind]
    copy = path.with_name(f"{kind}_{path.name}")
    copy.write_bytes(data)
    return copy


def shown_by_ffmpeg(path: Path, pixel_format: str, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the frames that the program `ffmpeg` shows, [H, W, 3] or [H, W], by (width, height) of a frame."""
    command = [FFMPEG, "-v", "error", "-i", f"file:{path}", "-an", "-sn", "-fps_mode", "passthrough"]
    command += ["-sws_flags", "bilinear", "-pix_fmt", pixel_format, "-f", "rawvideo", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    shape = (size[1], size[0], 3) if pixel_format == "rgb24" else (size[1], size[0])
    return list(np.frombuffer(done.stdout, np.uint8).reshape(-1, *shape))


def texture(count: int = 20, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """A moving texture whose sides and corners all differ."""
    return moving_texture(count, height, width, seed=3)


def mutated(originals: list[bytes], seed: int) -> bytes:
    """Return one of the files with bits flipped, its end cut off, or a part removed, repeated or of another file."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(originals))
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    kind = rng.choice(["flip", "flip", "cut off", "remove", "repeat", "splice"])
    if kind == "flip":
        # Half of them in the header, where a bit changes more.
        reach = rng.choice([200, 2000, len(data)])
        for _ in range(rng.choice([1, 3, 10, 100])):
            data[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)
    elif kind == "cut off":
        del data[start:]
    elif kind == "remove":
        del data[start:end]
    else:
        other = data if kind == "repeat" else rng.choice(originals)
        data[start:start] = other[min(start, len(other)) : end]
    return bytes(data)
