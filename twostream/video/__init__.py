"""Decode videos: every frame that can be decoded, in order, as a player shows it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
from av.format import Flags
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from twostream.errors import reason

# Shorter sides leave too few pixels for the networks' crops and the pyramids of optical flow.
MIN_SIDE = 16
MAX_PIXELS = 8192 * 4320  # of a frame: a damaged header can announce any size, and frames of that size fill the memory
# Prefixes of addresses that a user may name on the command line.
NETWORK = (
    *("http://", "https://", "ftp://", "sftp://", "rtsp://", "rtsps://", "rtmp://", "rtmps://"),
    *("rtp://", "srt://", "tcp://", "udp://"),
)
# FFmpeg's names of containers that hold their video themselves. A playlist (HLS, DASH, concat, SDP), a script or a
# pattern of image names would make it open whatever file or address it names.
_FORMATS = (
    "3gp,amv,asf,av1,avi,avs,cavsvideo,dhav,dirac,dv,dxa,flic,flv,gif,gxf,h261,h263,h264,hevc,ivf,live_flv,lxf,m4v,"
    "matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mtv,mxf,nsv,nut,nuv,obu,ogg,pva,rm,smk,swf,vc1,vc1test,vvc,wtv,"
    "yuv4mpegpipe,"
    "aac,flac,mp3,wav"  # so that the reason says that there is no video
)
_FILE = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
# A playlist from the network may name more addresses, but no files of this machine.
_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,srtp,rtsp,rtmp,rtmps,rtmpt,rtmpts,rtmpe,ffrtmphttp,srt,ftp,sftp,hls"
_ADDRESS = {"protocol_whitelist": f"{_PROTOCOLS},crypto,data", "rtsp_flags": "prefer_tcp"}
TIMEOUT_S = 20.0  # for an address to answer
_POINTER = b"version https://git-lfs.github.com/spec/"
_PLANAR = {f"{family}{layout}p" for family in ("yuv", "yuvj") for layout in (420, 422, 444)}
_YUV = ("yuv", "nv", "p0", "p2", "p4", "uyv", "yvyu", "y2", "xv", "vuy", "ayuv")
_STRETCHED = np.rint((np.arange(256) - 16) * (255 / 219)).clip(0, 255).astype(np.uint8)
# Matrices of YCbCr, numbered as in ITU-T H.273, that differ from BT.601, which libswscale takes by default.
_MATRICES = frozenset({1, 4, 7, 9, 10})
_DEFAULT_TRACK = 5_000_000  # pixels that the flag `default` is worth, as for FFmpeg's own choice
# Sample aspect ratios beyond are errors of the header; those nearer to 1 (4320:4319 in UCF101) are errors of rounding.
_MOST_STRETCH, _LEAST_STRETCH = 10, 1.02
USUAL_FPS = 25.0  # of a stream that gives no frame rate
# A step back of more than this, or in a transport stream a jump ahead of more than that, starts another recording
# (`ffmpeg` has the same limits).
_BACK_S, _AHEAD_S = 0.1, 10.0
_SEEK_S = 2.0  # a span that starts earlier is reached by decoding
_TICK_S = 0.001  # of the ends of spans

av.logging.set_level(av.logging.PANIC)  # errors that matter are raised; libav's messages would break the progress bar


Watch = Callable[["av.Packet | None", str], None]
Span = tuple[
    float, float
]  # from its first frame up to the frame after its last, in seconds from the video's first frame
Stream = BinaryIO | RawIOBase


class VideoError(Exception):
    """The file holds no video that can be decoded; the message says why in a few words, without the path."""


def read_frames(
    path: str | Path, pixel_format: str = "rgb24", span: Span | None = None
) -> Generator[np.ndarray, None, None]:
    """Decode a video, or a span of it, frame by frame in presentation order.

    Frames have the shape and the orientation that players show: the sample aspect ratio widens or narrows them, and
    the display matrix turns and mirrors them. Frames that cannot be decoded, or that an edit list hides, are left out.

    Args:
        path: a file in a container that holds its video itself, or an address with one of the prefixes `NETWORK`.
        pixel_format: `rgb24` for uint8 [H, W, 3] frames, `gray` for uint8 [H, W] luma.
        span: which frames; None for all.

    Raises:
        VideoError: no video stream, or the file cannot be opened.
    """
    if span:
        for video, frame, _ in frames_in(path, span):
            yield video.image(frame, pixel_format)
        return
    with open_video(path) as video:
        for frame in video.decode():
            yield video.image(frame, pixel_format)


def frames_in(path: str | Path, span: Span) -> Generator[tuple[Video, av.VideoFrame, float], None, None]:
    """Yield the open video and each frame of a span of it, with its time as :class:`Clock` gives it.

    Only a part of the file is read: from the key frame before the span on. A file in which this key frame cannot be
    found is decoded from its start.
    """
    for seeks in (True, False):
        with open_video(path) as video:
            clock = Clock(video)
            frames = video.decode_from(span[0], clock) if seeks else video.decode(clock.see)
            if frames is None:
                continue
            for frame in frames:
                time = clock(frame.time)
                if time >= span[1] - _TICK_S:
                    return
                if time >= span[0] - _TICK_S:
                    yield video, frame, time
            return


def frame_times(path: str | Path) -> np.ndarray:
    """Return when each frame of a video is shown, by the time stamps in the file: nothing is decoded.

    Returns:
        float64 [frames]: seconds from the first frame, never decreasing.

    Raises:
        VideoError: no video stream, or the file cannot be opened.
    """
    with open_video(path) as video:
        clock = Clock(video)
        times: list[float] = []
        with contextlib.suppress(av.error.FFmpegError):  # the file breaks off
            for packet in video.container.demux(video.track):
                if packet.size and not packet.is_discard:
                    times.append(clock.shown(packet))
        return np.sort(times) - min(times, default=0.0)


@contextlib.contextmanager
def open_video(source: str | Path | Stream) -> Iterator[Video]:
    """Open a file, an address (a str with one of the prefixes `NETWORK`), or a stream to read from.

    Raises:
        VideoError: it cannot be opened, or holds no video that can be decoded.
    """
    with _open(source) as container:
        yield Video(container)


def _open(source: str | Path | Stream) -> av.container.InputContainer:
    started = time.monotonic()
    try:
        if not isinstance(source, str | os.PathLike):
            return av.open(source, "r", container_options=_FILE, metadata_errors="replace")
        if _is_address(source):
            return av.open(source, container_options=_ADDRESS, metadata_errors="replace", timeout=TIMEOUT_S)
        # `file:` keeps FFmpeg from reading a name such as "concat:a" or "http:x" as a protocol.
        return av.open(f"file:{os.fspath(source)}", container_options=_FILE, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if _is_address(source) and time.monotonic() - started >= TIMEOUT_S:
            raise VideoError(f"no answer for {TIMEOUT_S:g} seconds") from None
        raise VideoError(_why_not_open(source, error)) from None


def _is_address(source: object) -> bool:
    return isinstance(source, str) and source.startswith(NETWORK)


def _why_not_open(source: str | Path | Stream, error: av.error.FFmpegError) -> str:
    with contextlib.suppress(OSError, TypeError), open(source, "rb") as file:  # type: ignore[arg-type]
        start = file.read(len(_POINTER))
        if not start:
            return "empty file (0 bytes)"
        if start == _POINTER:
            return "a Git LFS pointer instead of the video: run `git lfs pull`"
    if error.errno == errno.EINVAL and not _is_address(source):
        return "not a video that can be opened: of no format that holds its video itself"
    return f"not a video that can be opened: {reason(error)}"


class Video:
    """An open video: its best track, and how the frames of this track are shown."""

    def __init__(self, container: av.container.InputContainer):
        self.container = container
        self.track = _best_track(container)
        self.track.codec_context.thread_count = 1  # clips run in parallel, one per process
        aspect = float(self.track.sample_aspect_ratio or 1)
        stretch = max(aspect, 1 / aspect)
        self._aspect = aspect if _LEAST_STRETCH <= stretch <= _MOST_STRETCH else 1.0
        self._is_started = False
        self._turned: tuple[bool, bool, bool] | None = None
        # One per conversion: each keeps the context of its last one.
        self._reformatters: dict[tuple[str, bool], VideoReformatter] = defaultdict(VideoReformatter)

    def decode(self, watch: Watch | None = None) -> Iterator[av.VideoFrame]:
        """Yield the frames in presentation order.

        Args:
            watch: called for every packet, also of the other tracks, with why it cannot be decoded, or "". The packet
                is None where reading stops before the end.
        """
        packets = self.container.demux(*([] if watch else [self.track]))
        try:
            for packet in packets:
                frames, why = self._frames_of(packet)
                if watch:
                    watch(packet, why)
                yield from frames
        except av.error.FFmpegError as error:  # in reading: those of the decoder are caught
            if watch:
                watch(None, reason(error))
            for frame in self._frames_of(None)[0]:  # what the decoder keeps back
                frame.time_base = self.track.time_base
                yield frame

    def decode_from(self, start: float, clock: Clock) -> Iterator[av.VideoFrame] | None:
        """Return the frames from a key frame before `start` on, in seconds from the first frame; None if it is unknown.

        `clock` then gives their times.
        """
        if start < _SEEK_S or is_broadcast(self):
            return None
        first = next(self.decode(), None)
        if first is None or first.time is None or not clock.tick:
            return None
        clock(first.time)
        try:
            self.container.seek(int((first.time + start) / clock.tick), stream=self.track)
        except av.error.FFmpegError:
            return None
        frames = self.decode(clock.see)
        found = next(frames, None)
        if found is None or found.time is None or found.time - first.time > start + _TICK_S:
            return None
        return itertools.chain([found], frames)

    def _frames_of(self, packet: av.Packet | None) -> tuple[list[av.VideoFrame], str]:
        """Return the frames that a packet completes (None: those kept back), and why it cannot be decoded."""
        if packet is not None:
            # An empty packet repeats the frame before; the one at the end, which has no time, gets the last frames out.
            if packet.stream is not self.track or (not packet.size and packet.dts is not None):
                return [], ""
            if not self._is_started:  # once: PyAV takes long to answer
                self._is_started = True
                if packet.has_sidedata("encryption_info") or "enc_key_id" in self.track.metadata:  # of MP4, of Matroska
                    raise VideoError("encrypted: decrypt it first")
        try:
            frames = self.track.decode(packet)
        except (av.error.FFmpegError, RuntimeError, ValueError) as error:  # the others: impossible sizes or formats
            return [], reason(error)
        return [frame for frame in frames if frame.width > 0 and frame.height > 0], ""

    def shown_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Return (width, height) at which a frame is shown."""
        width, height = max(1, round(frame.width * self._aspect)), frame.height
        return (height, width) if self._turns(frame)[0] else (width, height)

    def image(self, frame: av.VideoFrame, pixel_format: str) -> np.ndarray:
        """Return a frame as it is shown; formats as for :func:`read_frames`."""
        image = _luma(frame) if pixel_format == "gray" else None
        if image is None:
            image = self._convert(frame, pixel_format)
        return self.turn(resize(image, (max(1, round(frame.width * self._aspect)), frame.height)), frame)

    def turn(self, image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
        """Turn and mirror an image of a frame [H, W, ...] as the frame is shown."""
        transposed, flip_x, flip_y = self._turns(frame)
        if transposed:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])

    def _convert(self, frame: av.VideoFrame, pixel_format: str) -> np.ndarray:
        """Convert a frame with libswscale, by the range and the matrix that the frame is flagged with."""
        name = frame.format.name
        is_unusual = name.startswith(_YUV) and (_is_full_range(frame) or frame.colorspace in _MATRICES)
        convert = self._reformatters[pixel_format, is_unusual].reformat
        if not is_unusual:
            return convert(frame, format=pixel_format).to_ndarray()
        # PyAV ignores both flags unless the two sides differ; BT.601 has two names, so that they always do.
        target = Colorspace.SMPTE170M if frame.colorspace != Colorspace.SMPTE170M else Colorspace.ITU601
        return convert(
            frame,
            format=pixel_format,
            src_colorspace=frame.colorspace,
            dst_colorspace=target,
            src_color_range=ColorRange.JPEG if _is_full_range(frame) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
        ).to_ndarray()

    def _turns(self, frame: av.VideoFrame) -> tuple[bool, bool, bool]:
        if self._turned is None:  # by the first frame: looking at the data beside every frame takes time
            self._turned = _orientation(frame)
        return self._turned


class Clock:
    """Turns the time stamps of frames into seconds from the first frame, never decreasing.

    Time goes on by one frame where a time stamp is missing, or where another recording starts in the same file.
    """

    def __init__(self, video: Video):
        track = video.track
        self.fps = float(track.average_rate or track.guessed_rate or 0)
        self._step = 1 / (self.fps or USUAL_FPS)
        self.tick = float(track.time_base or 0)
        self._ahead = _AHEAD_S if is_broadcast(video) else np.inf
        self._track = track
        self._decoded: float | None = None  # when the packet before is decoded
        self._offsets = [0.0]  # from time stamps to seconds, of the recording before and of this one
        self._time: float | None = None

    def see(self, packet: av.Packet | None, _: str) -> None:
        """Watch the packets of the track among all packets, as :meth:`Video.decode` shows them."""
        if packet is not None and packet.stream is self._track:
            self.watch(packet)

    def watch(self, packet: av.Packet) -> None:
        """Notice in a packet of the track whether another recording starts."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return
        before, self._decoded = self._decoded, stamp * self.tick
        if before is not None and not -_BACK_S <= self._decoded - before <= self._ahead:
            last = self._offsets[-1]
            self._offsets = [last, last + before + self._step - self._decoded]

    def shown(self, packet: av.Packet) -> float:
        """Return when the frame of a packet is shown, from an unknown zero; packets come in the order of decoding."""
        self.watch(packet)
        stamp = packet.pts if packet.pts is not None else packet.dts
        # Of other containers, the first packets may have no time of decoding, which then seems to step back.
        offset = self._offsets[-1] if np.isfinite(self._ahead) else 0.0
        self._time = (self._time or 0.0) + self._step if stamp is None else stamp * self.tick + offset
        return self._time

    def __call__(self, stamp: float | None) -> float:
        """Return the time of the next frame."""
        if self._time is None:
            self._offsets = [offset - (stamp or 0.0) - self._offsets[0] for offset in self._offsets]
            self._time = 0.0
        else:
            # The decoder keeps frames back: after the first packets of a recording, frames of the one before come.
            due = self._time + self._step
            time = due if stamp is None else stamp + self._offsets[-1]
            if stamp is not None and len(self._offsets) > 1:
                time = min((stamp + offset for offset in self._offsets), key=lambda time: abs(time - due))
            self._time = max(self._time, time)
        return self._time


def is_broadcast(video: Video) -> bool:
    """Return whether a file may be a part of a transmission.

    It then starts with frames that refer to earlier ones, declares no duration, and its time stamps may jump.
    """
    return Flags.ts_discont in Flags(video.container.format.flags)


def _best_track(container: av.container.InputContainer) -> av.VideoStream:
    """Return the track that `ffmpeg` chooses: the largest, and one flagged as default before others.

    Tracks that are too small to use, and single images, are taken only where there are no others.

    Raises:
        VideoError: there is none that can be decoded.
    """
    tracks = [track for track in container.streams.video if not track.disposition & Disposition.attached_pic]
    if not tracks:
        raise VideoError("no video stream" + (", only a cover image" if container.streams.video else ""))
    decodable = [track for track in tracks if track.codec_context]
    if not decodable:
        raise VideoError(f"no decoder for codec {_codec_name(container, tracks[0])}")

    def score(track: av.VideoStream) -> tuple[bool, int]:
        width, height = track.codec_context.width, track.codec_context.height
        is_default = bool(track.disposition & Disposition.default)
        return track.frames != 1 and min(width, height) >= MIN_SIDE, width * height + _DEFAULT_TRACK * is_default

    best = max(decodable, key=score)
    width, height = best.codec_context.width, best.codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError(f"{width}x{height} pixels: more than {MAX_PIXELS} in a frame")
    # A damaged header in the middle of the stream can announce another size.
    best.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return best


def _codec_name(container: av.container.InputContainer, track: av.VideoStream) -> str:
    """Return the name or the four letters of a codec that has no decoder, as `ffmpeg` prints them."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        printed = re.search(rf"Stream #0:{track.index}\b.*?: Video: (.*)", container.dumps_format())  # type: ignore[attr-defined]
    finally:
        av.logging.set_level(level)
    name = printed[1].split(",")[0].removeprefix("none").strip(" ()").split(" / ")[0] if printed else ""
    return name or "unknown"


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return what the display matrix does: swap rows and columns, then mirror left and right, then top and bottom.

    The matrix [a b; c d] shows the pixel at (x, y) at (ax + cy, bx + dy) (ISO/IEC 14496-12, 6.2.2). Angles between
    are taken as the nearest of its eight values.
    """
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know a kind of side data; the angle it can give
        data = None
    if data is None:
        angle = np.deg2rad(frame.rotation)
        a, b, c, d = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    else:
        a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()  # type: ignore[call-overload]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def _luma(frame: av.VideoFrame) -> np.ndarray | None:
    """Return what FFmpeg's conversion to `gray` gives, in a third of its time; None for formats without 8-bit luma.

    Luma from 16 to 235 is stretched to grey levels from 0 to 255; luma of the full range already uses all of them.
    """
    if frame.format.name not in _PLANAR or frame.colorspace in _MATRICES:
        return None
    plane = frame.planes[0]
    image = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    return image.copy() if _is_full_range(frame) else cv2.LUT(image, _STRETCHED)


def _is_full_range(frame: av.VideoFrame) -> bool:
    return frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a uint8 image [H, W] or [H, W, 3] at `size` (width, height), by area to shrink, linearly to enlarge."""
    if image.shape[1::-1] == size:
        return image
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
