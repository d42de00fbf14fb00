"""Cameras, addresses and standard input: videos that are read once, as they come, and may have no end."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, TypeGuard
from urllib.parse import urlsplit

import av
import cv2
import numpy as np

from twostream.errors import UserError, reason
from twostream.video import NETWORK, TIMEOUT_S, Clock, Stream, VideoError, open_video

STDIN = "-"
Live = Generator[tuple[float, dict[str, np.ndarray]], None, None]
# Boxes that may stand before the frames and the index of an MP4 file.
_BOXES = (b"ftyp", b"free", b"skip", b"wide", b"styp", b"sidx", b"uuid", b"pdin")
_MOST_BOX_BYTES = 1 << 20


def is_live(source: object) -> TypeGuard[str]:
    """Return whether a source is an address or :data:`STDIN`, and not the path of a file."""
    return isinstance(source, str) and (source == STDIN or source.startswith(NETWORK))


def live_frames(source: int | str) -> Live:
    """Yield the frames of a camera, or of a source for which :func:`is_live` is true, as they come.

    Yields:
        Seconds from the first frame, and the frame by its format, as :func:`twostream.video.read_frames` gives it.

    Raises:
        UserError: there is no video, or the source breaks off.
    """
    if isinstance(source, int):
        yield from _camera_frames(source)
        return
    broken = ""

    def watch(packet: av.Packet | None, why: str) -> None:
        nonlocal broken
        if packet is None:  # FFmpeg reports the end of an answer without a length as an error of input
            broken = why.replace(os.strerror(errno.EIO), "")
        elif packet.stream is video.track:
            clock.watch(packet)

    try:
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(_standard_input()) if source == STDIN else source
            video = stack.enter_context(open_video(opened))
            clock = Clock(video)
            for frame in video.decode(watch):
                if isinstance(opened, _Continued) and opened.is_interrupted:
                    raise KeyboardInterrupt
                yield clock(frame.time), {name: video.image(frame, name) for name in ("rgb24", "gray")}
    except VideoError as error:
        raise UserError(f"{source}: {error}; give a video that can be read from its start on") from None
    if broken:
        raise UserError(f"{source}: breaks off ({broken}); run it again")


def _camera_frames(number: int) -> Live:
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # OpenCV's own lines; the error below is enough
    try:
        capture = cv2.VideoCapture(number)
    finally:
        logging.setLogLevel(level)
    try:
        if not capture.isOpened():
            raise UserError(f"camera {number}: cannot be opened; give the number of a camera that is free, or a file")
        first = None
        while True:
            came, image = capture.read()
            if not came:
                raise UserError(f"camera {number}: gives no more frames; check that it is plugged in")
            now = time.monotonic()
            first = now if first is None else first
            colour = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield now - first, {"rgb24": colour, "gray": cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)}
    finally:
        capture.release()


@contextlib.contextmanager
def _standard_input() -> Iterator[Stream | Path]:
    """Yield standard input, or a copy on disk if it is an MP4 file whose index comes last, as is usual."""
    stdin = sys.stdin.buffer
    start = bytearray()
    index_is_last = False
    while len(start) < _MOST_BOX_BYTES:
        box = stdin.read(8)
        start += box
        index_is_last = box[4:] == b"mdat"
        if box[4:] not in _BOXES:
            break
        start += stdin.read(min(max(int.from_bytes(box[:4], "big") - 8, 0), _MOST_BOX_BYTES))
    stream = _Continued(bytes(start), stdin)
    if not index_is_last:
        yield stream
        return
    with tempfile.NamedTemporaryFile(suffix=".mp4") as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        yield Path(copy.name)


class _Continued(io.RawIOBase):
    """Bytes that were read from a stream already, and then the rest of it."""

    def __init__(self, start: bytes, rest: BinaryIO):
        self._start, self._rest = io.BytesIO(start), rest
        self.is_interrupted = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._start.read(size) or self._rest.read1(size)  # type: ignore[attr-defined]
        except KeyboardInterrupt:  # PyAV would print it and go on
            self.is_interrupted = True
            return b""


@contextlib.contextmanager
def fetched(source: int | str) -> Iterator[Path | None]:
    """Download a video file of a web or FTP server for the time of the block; None if the source is a live one.

    Raises:
        UserError: the server cannot be reached or refuses.
    """
    with contextlib.ExitStack() as stack:
        copy = None
        if isinstance(source, str) and source.startswith(("http://", "https://", "ftp://")):
            try:
                response = stack.enter_context(urllib.request.urlopen(source, timeout=TIMEOUT_S))
                start = response.read(1024)
                is_playlist = b"#EXTM3U" in start or b"<MPD" in start
                if response.headers.get("Content-Length") and not is_playlist:
                    ending = os.path.splitext(urlsplit(source).path)[1]
                    copy = stack.enter_context(tempfile.NamedTemporaryFile(suffix=ending))
                    copy.write(start)
                    shutil.copyfileobj(response, copy)
                    copy.flush()
            except (OSError, ValueError) as error:
                raise UserError(f"{source}: cannot be downloaded ({reason(error)}); check the address") from None
        yield Path(copy.name) if copy else None
