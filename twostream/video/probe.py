"""Report what a complete decode of a video finds: its frames, when they are shown, and what is lost."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import struct
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.format import Flags

from twostream.video import MIN_SIDE, Clock, Span, Video, VideoError, frames_in, is_broadcast, open_video

# Headers of real files are often wrong by one frame (HMDB51), and a broken end should not make a clip unreadable; a
# loss of more than this fraction of the frames should.
MAX_LOST = 0.2
MAX_FLAWED = 0.5  # of the frames with errors in them: the rest of such frames is a guess of the decoder, or noise
_TRAILER = 4096  # bytes that may follow the last packet: an index, or padding
_HOLE = 8  # times the mean packet: so many bytes between two packets are more than headers and padding
_DELAY = 18  # frames that a decoder may keep back, or one packet of a file may hold: damage shows so far from its gap
_PLAUSIBLE_S = 10.0  # by which the first packet that is decoded can come after the first that is shown
_NOTED = 64  # packets and frames between two looks at them
_SCANNED = ("gif", "ogg")  # their duration is not declared: FFmpeg finds the last frame that is there

See = Callable[[Video, av.VideoFrame], None]


@dataclass(frozen=True)
class Probe:
    """What a complete decode of a file found.

    Attributes:
        frames: number of frames that were decoded.
        fps: frames per second, by the header, or by the time stamps where they say otherwise.
        width, height: as players show the video.
        readable: whether the clip can be used.
        reason: what is wrong with the file, empty for a sound one; a readable file can have a reason too.
    """

    frames: int
    fps: float
    width: int
    height: int
    readable: bool
    reason: str


def probe(path: str | Path, see: See | None = None, span: Span | None = None) -> Probe:
    """Decode a file, or a span of it, and report what is in it; never raises for a bad file. `see` gets every frame."""
    return _probe_span(path, see, span) if span else survey(path, see)[0]


def _probe_span(path: str | Path, see: See | None, span: Span) -> Probe:
    """Report what is in a span: a clip of its own, which is damaged if frames at its start or its end are missing."""
    times: list[float] = []
    size, fps = (0, 0), 0.0
    try:
        for video, frame, time in frames_in(path, span):
            if not times:
                size, fps = video.shown_size(frame), float(video.track.average_rate or video.track.guessed_rate or 0)
            times.append(time)
            if see:
                see(video, frame)
    except VideoError as error:
        return Probe(0, 0.0, 0, 0, False, str(error))
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    lost = round(max(times[0] - span[0] + span[1] - times[-1] - step, 0.0) / step) if step else 0
    return _verdict(Probe(len(times), round(_fps(fps, times, lost), 6), *size, False, ""), lost, at_end=True)


def survey(path: str | Path, see: See | None = None) -> tuple[Probe, np.ndarray]:
    """Return the report of :func:`probe` and the time of each frame.

    Returns:
        The report, and float64 [frames]: seconds from the first frame, never decreasing, as :class:`Clock` gives them.
    """
    frames = _watched(path)
    try:
        while True:
            video, frame = next(frames)
            if see:
                see(video, frame)
    except StopIteration as end:
        return end.value
    except VideoError as error:
        return Probe(0, 0.0, 0, 0, False, str(error)), np.zeros(0)


def read_and_judge(path: str | Path, pixel_format: str) -> Generator[np.ndarray, None, Probe]:
    """Yield the frames of a video as `read_frames` does, and return the report of :func:`probe` on them."""
    frames = _watched(path)
    try:
        while True:
            video, frame = next(frames)
            yield video.image(frame, pixel_format)
    except StopIteration as end:
        return end.value[0]


def _watched(path: str | Path) -> Generator[tuple[Video, av.VideoFrame], None, tuple[Probe, np.ndarray]]:
    """Yield the open video with each of its frames, and return what :func:`survey` returns."""
    with open_video(path) as video:
        record = _Record(video)
        size: tuple[int, int] | None = None
        for frame in video.decode(record.watch):
            size = size or video.shown_size(frame)
            record.see(frame)
            yield video, frame
        record.catch_up()
        return _judge(record, *(size or (0, 0))), np.array(record.times)


class _Record:
    """What decoding a video shows beside its frames.

    Packets and frames are noted as they come, and looked at some dozens at a time: Python code that runs between two
    frames takes several times as long as in a loop, since the decoder fills the processor's caches.

    Attributes:
        stamps: time stamp of each frame, in seconds, or None.
        times: when each frame is shown, as :class:`Clock` gives it.
        failures: why packets cannot be decoded.
        marks: number of frames before each sign of damage.
        flawed: number of packets that FFmpeg logs errors about. A sound file has none, in 123 real clips tried.
        first, end: seconds of the first packet of the track, and of the end of the last packet of any track.
    """

    def __init__(self, video: Video):
        track, container = video.track, video.container
        self._container = container
        self.clock = Clock(video)
        self.stamps: list[float | None] = []
        self.times: list[float] = []
        # What `watch` gets and the number of FFmpeg's errors so far, or the time stamp of a frame.
        self._noted: list[tuple[av.Packet | None, str, int] | float | None] = []
        self.failures: list[str] = []
        self.marks: list[int] = []
        self.flawed = 0
        self.first, self.end = np.inf, -np.inf
        self._is_broadcast = is_broadcast(video)
        self._has_stamps = Flags.no_timestamps not in Flags(container.format.flags)
        self._damaged: list[int] = []  # sizes of packets with a sign of damage
        self._listed = track.frames if container.format.name.startswith("mov") else np.inf  # in the header
        self._ticks = {one.index: float(one.time_base or 0) for one in container.streams}
        self._track = track.index
        self._packets = self._of_track = 0  # number of all packets, and of those of the track
        self._packed = self._read = 0  # bytes of the packets, and where the last one ends in the file
        self._size = container.size
        self._is_short = False  # whether the file is smaller than its header says
        self._logged = av.logging.get_last_error()[0]
        self.duration = (container.duration or 0) / av.time_base
        if track.duration:
            self.duration = track.duration * self._ticks[track.index]
        if container.format.name == "avi":  # of a file that is cut short, FFmpeg shortens the duration, not the number
            self.duration = max(self.duration, track.frames / (self.clock.fps or np.inf))
        elif container.format.name == "asf":  # likewise, it drops the duration
            seconds, size = _asf_extent(container.name.removeprefix("file:"))
            self.duration = self.duration or seconds
            self._is_short = self._size < size

    def watch(self, packet: av.Packet | None, why: str) -> None:
        """Note what a packet says; see :meth:`Video.decode`."""
        # Demuxers skip what they cannot read, and only log it.
        self._noted.append((packet, why, av.logging.get_last_error()[0]))
        if len(self._noted) >= _NOTED:
            self.catch_up()

    def see(self, frame: av.VideoFrame) -> None:
        """Note when the next frame is shown."""
        self._noted.append(frame.time)

    def catch_up(self) -> None:
        """Look at what is noted."""
        for noted in self._noted:
            if isinstance(noted, tuple):
                self._look_at(*noted)
            else:
                self.stamps.append(noted)
                self.times.append(self.clock(noted))
        self._noted.clear()

    def _look_at(self, packet: av.Packet | None, why: str, logged: int) -> None:
        self.flawed += logged != self._logged
        if why or logged != self._logged or (packet is not None and (packet.is_corrupt or self._skips(packet))):
            self._logged = logged
            self.marks.append(len(self.stamps))
            self._damaged.append(packet.size if packet is not None else 0)
        if why and (self.stamps or not self._is_broadcast):
            self.failures.append(why)
        if packet is None:
            return
        index, stamp = packet.stream_index, packet.pts
        if index == self._track:
            self._of_track += 1
            self.clock.watch(packet)
        if stamp is None or packet.is_discard:
            return
        tick = self._ticks.get(index, 0.0)
        self.end = max(self.end, (stamp + (packet.duration or 0)) * tick)
        if index == self._track and (self.first == np.inf or 0 < self.first - stamp * tick < _PLAUSIBLE_S):
            self.first = stamp * tick  # one that is much smaller is damaged

    def _skips(self, packet: av.Packet) -> bool:
        """Return whether the file has far more bytes before this packet than others need for their headers."""
        at, size = packet.pos, packet.size
        if at is None or not size:
            return False
        skips = self._packets > 0 and at - self._read > _HOLE * self._packed / self._packets
        self._read = max(self._read, at + size)
        self._packed += size
        self._packets += 1
        return skips

    def lost(self) -> tuple[int, bool]:
        """Return about how many frames are missing, and whether most of them are at the end.

        They are counted by the packets that fail, and by the time that no frame covers. A gap between frames counts
        only next to a sign of damage: without one, the frame rate is variable.
        """
        # Without NumPy, of which the first call after decoding takes long.
        steps = [after - before for before, after in itertools.pairwise(self.times)]
        step = sorted(steps)[len(steps) // 2] if steps else 0.0  # the median
        if step <= 0:
            return len(self.failures), False
        gaps = [number for number, length in enumerate(steps) if length > 1.5 * step]
        if not self._is_short:
            gaps = [number for number in gaps if self._is_marked(number)]
        gap = sum(steps[number] - step for number in gaps)
        if 0 in self.marks and not self._is_broadcast and self.stamps[0] is not None:
            gap += max(self.stamps[0] - self.first, 0.0)
        if not self._has_stamps and self._packets:  # times are made up; noise is as long as the frames in its place
            mean = self._packed / self._packets
            gap += step * sum(size / mean for size in self._damaged if size > _HOLE * mean)
        tail = self._tail(self.times[-1], step)
        return max(round((gap + tail) / step), len(self.failures)), tail > gap

    def _is_marked(self, number: int) -> bool:
        """Return whether a sign of damage is less than _DELAY frames away from a frame."""
        nearest = bisect.bisect_right(self.marks, number - _DELAY)
        return nearest < len(self.marks) and self.marks[nearest] < number + _DELAY

    def _tail(self, time: float, step: float) -> float:
        """Return the seconds from the end of the last frame, which is shown at `time`, to the end of the video."""
        if self.stamps[0] is None:
            return 0.0
        last = self.stamps[0] + time
        is_fragmented = self._of_track > self._listed + 1  # one packet at the end is empty
        is_declared = self.duration > 0 and not self._is_broadcast and not is_fragmented
        if not is_declared or self._container.format.name in _SCANNED:
            rest = self._size - self._read if self._read else 0
            return rest / self._read * time if rest > max(MAX_LOST * self._size, _TRAILER) else 0.0
        # A duration counts from 0 or from the first packet, by the container. Where it can be either, the loss is the
        # smaller one.
        first = min(self.first, last)
        shift = first if first >= self.duration else min(first, 0.0)
        reached = self.end - shift >= self.duration - max(step, 0.05 * self.duration)
        if reached and not any(mark > len(self.stamps) - _DELAY for mark in self.marks):
            return 0.0  # the rest of the file is there: the video ends before the sound, or its last frame stands still
        if not self.marks and self._is_whole_avi():
            return 0.0
        return max(self.duration - (last - shift + step), 0.0)

    def _is_whole_avi(self) -> bool:
        """Return whether the file is an AVI as long as its header says: it ends with null frames, which are skipped."""
        if self._container.format.name != "avi":
            return False
        with contextlib.suppress(OSError), open(self._container.name.removeprefix("file:"), "rb") as file:
            whole = 8 + int.from_bytes(file.read(8)[4:], "little")
            unread = self._size - self._read
            return whole <= self._size <= whole + _TRAILER and unread <= max(MAX_LOST * self._size, _TRAILER)
        return False


def _asf_extent(path: str) -> tuple[float, int]:
    """Return the duration and the size in bytes that the header of an ASF file declares (ASF specification, 3.2)."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(1 << 16)
        properties = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
        if 0 <= properties <= len(head) - 92:
            (size,) = struct.unpack_from("<Q", head, properties + 40)
            played, _, preroll, flags = struct.unpack_from("<QQQL", head, properties + 64)
            if not flags & 1:  # 1: a live recording
                return max(played / 1e7 - preroll / 1e3, 0.0), size
    return 0.0, 0


def _judge(record: _Record, width: int, height: int) -> Probe:
    lost, at_end = record.lost()
    fps = round(_fps(record.clock.fps, record.times, lost), 6)
    found = Probe(len(record.times), fps, width, height, False, "")
    return _verdict(found, lost, at_end, record.failures, record.flawed)


def _verdict(found: Probe, lost: int, at_end: bool, failures: Sequence[str] = (), flawed: int = 0) -> Probe:
    """Return the report with whether the clip can be used, and why not."""
    frames, total, width, height = found.frames, found.frames + lost, found.width, found.height
    first = f" ({failures[0]})" if failures else ""
    if frames == 0:
        return replace(found, reason=f"no frame can be decoded{first}")
    if min(width, height) < MIN_SIDE:
        return replace(found, reason=f"{width}x{height} pixels: smaller than {MIN_SIDE} on a side")
    if frames < 2:
        return replace(found, reason="a single frame: motion needs at least two")
    if lost > max(1, MAX_LOST * total):
        what = "cut short" if at_end else "damaged"
        return replace(found, reason=f"{what}: {frames} of about {total} frames can be decoded{first}")
    if flawed > MAX_FLAWED * frames:
        return replace(found, reason=f"damaged: errors in {flawed} of {frames} frames{first}")
    if failures:
        count = len(failures)
        return replace(found, readable=True, reason=f"damaged but used: {count} packets cannot be decoded{first}")
    if lost > 1:
        what = "cut short" if at_end else "damaged"
        return replace(found, readable=True, reason=f"{what} but used: {frames} of about {total} frames can be decoded")
    return replace(found, readable=True)


def _fps(declared: float, times: Sequence[float], lost: int) -> float:
    """Return the declared frame rate, or the mean one where frames of a complete video come at another."""
    if lost or len(times) < 2 or times[-1] <= times[0]:
        return declared
    mean = (len(times) - 1) / (times[-1] - times[0])
    return declared if abs(mean - declared) <= 0.1 * declared else mean
