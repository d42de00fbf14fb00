"""The packed clip file: one uncompressed ZIP per clip and modality with a JPEG per frame, and a JSON comment."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from twostream.core.files import atomic_path
from twostream.errors import UserError

FORMAT = 1
_NAME_SIZE = len("00001.jpg")
_ENTRY = np.dtype(  # of the ZIP directory as `write_clip` writes it: a name of nine bytes and no extra field
    {
        "names": ["method", "crc", "size", "name_size", "offset"],
        "formats": ["<u2", "<u4", "<u4", "<u2", "<u4"],
        "offsets": [10, 16, 20, 28, 42],
        "itemsize": 46 + _NAME_SIZE,
    }
)
_TAIL = 16384  # bytes read first: they hold the directory of up to 290 frames and the comment


def write_clip(path: str | Path, frames: Iterable[np.ndarray], quality: int, meta: dict[str, Any]) -> None:
    """Write a clip file; frames stream through, so memory does not grow with the clip.

    The same frames and meta give the same bytes: entries carry a fixed date and no attributes of this machine.

    Args:
        path: where the file goes; it appears complete or not at all.
        frames: uint8 [H, W, 3] RGB frames, or uint8 [H, W, 2] flow codes (stored side by side as one grey image).
        quality: JPEG quality, 1 to 100.
        meta: what the clip was made of, as JSON values; `format`, `frames`, `width`, `height` are added.
    """
    count, size = 0, (0, 0)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for frame in frames:
            count += 1
            size = frame.shape[:2]
            entry = zipfile.ZipInfo(f"{count:05d}.jpg", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # Unix, whatever system this is
            archive.writestr(entry, encode_frame(frame, quality))
        meta = {"format": FORMAT, **meta, "frames": count, "width": size[1], "height": size[0]}
        archive.comment = json.dumps(meta, sort_keys=True).encode()


class ClipReader:
    """Read single frames of a clip file, each compared with its CRC-32; a context manager.

    Attributes:
        meta: what `write_clip` was given, with `format`, `frames`, `width` and `height`.

    Raises:
        UserError: the file is missing, is not a clip file, or is damaged.
    """

    def __init__(self, path: str | Path):
        self.path = path
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; run `dvc repro` to extract it again") from None
        try:
            self._entries, comment = _directory(self._file)
            self.meta: dict[str, Any] = json.loads(comment)
        except (ValueError, struct.error, KeyError) as error:
            self._file.close()
            raise self._damaged(error) from None
        if self.meta.get("format") != FORMAT or self.meta.get("frames") != len(self._entries):
            self._file.close()
            raise self._damaged("its comment does not fit its content")

    def __len__(self) -> int:
        return len(self._entries)

    def digest(self) -> str:
        """Return a digest of the content of all frames, from the CRCs in the directory; no frame is read."""
        return hashlib.sha256(self._entries.tobytes()).hexdigest()

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return some frames, decoding each distinct one once.

        Args:
            indices: frame numbers from 0, any order, repeats allowed.

        Returns:
            uint8 [T, H, W, 3] RGB frames, or [T, H, W, 2] flow codes.
        """
        wanted, inverse = np.unique(np.asarray(indices), return_inverse=True)
        frames = [self.frame(int(i)) for i in wanted]
        return np.stack([frames[i] for i in inverse.ravel()])

    def frame(self, index: int) -> np.ndarray:
        """Decode one frame: uint8 [H, W, 3] RGB, or [H, W, 2] flow codes."""
        try:
            return decode_frame(self._jpeg(index), self.meta["modality"])
        except ValueError:
            raise self._damaged(f"frame {index + 1} cannot be decoded") from None

    def check(self) -> None:
        """Compare every frame with its CRC-32; raise a UserError at the first that differs."""
        for index in range(len(self)):
            self._jpeg(index)

    def _jpeg(self, index: int) -> bytes:
        offset, size, crc = self._entries[index].tolist()
        self._file.seek(offset)
        jpeg = self._file.read(size)
        if zlib.crc32(jpeg) != crc:
            raise self._damaged(f"frame {index + 1} has changed")
        return jpeg

    def _damaged(self, why: object) -> UserError:
        return UserError(f"{self.path}: not a sound clip file ({why}); delete it and run `dvc repro`")


def encode_frame(frame: np.ndarray, quality: int) -> bytes:
    """Return a frame as the JPEG that a clip holds.

    Args:
        frame: uint8 [H, W, 3] RGB, or [H, W, 2] flow codes, which become one grey image of x beside y.
    """
    image = _side_by_side(frame) if frame.shape[2] == 2 else cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _side_by_side(codes: np.ndarray) -> np.ndarray:
    """Return codes [H, W, 2] as an image [H, 2 W], x beside y; no copy where they lie in memory so, as from a GPU."""
    rows = codes.transpose(0, 2, 1)
    return rows.reshape(len(codes), -1) if rows.flags.c_contiguous else cv2.hconcat(cv2.split(codes))


def decode_frame(jpeg: bytes, modality: str) -> np.ndarray:
    """Return the frame of a JPEG that `encode_frame` made.

    Raises:
        ValueError: the JPEG is damaged.
    """
    flow = modality == "flow"
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE if flow else cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("a damaged JPEG")
    if flow:
        half = image.shape[1] // 2
        return cv2.merge([image[:, :half], image[:, half:]])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _directory(file: Any) -> tuple[np.ndarray, bytes]:
    """Return offset, size and CRC-32 of every entry's data, int64 [T, 3], and the comment, from the central directory.

    `zipfile` builds an object per entry, which costs more than decoding a few frames. The entries of `write_clip` are
    uncompressed and without extra fields, so their offsets follow from the directory alone (30 bytes of local header
    plus the name).
    """
    end = file.seek(0, os.SEEK_END)
    tail_start = max(0, end - _TAIL)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("no ZIP directory, probably cut short")
    count, size, start, comment_size = struct.unpack_from("<HIIH", tail, at + 10)
    comment = tail[at + 22 : at + 22 + comment_size]
    if count == 0xFFFF or start == 0xFFFFFFFF:  # ZIP64: rare, very long clips
        return _directory_zip64(file, comment)
    if size != count * _ENTRY.itemsize:
        raise ValueError("foreign entries")
    if start < tail_start:
        file.seek(start)
        tail, tail_start = file.read(size), start
    entries = np.frombuffer(tail, _ENTRY, count, start - tail_start)
    if (entries["method"] != 0).any() or (entries["name_size"] != _NAME_SIZE).any():
        raise ValueError("foreign entries")
    offsets = entries["offset"].astype(np.int64) + 30 + _NAME_SIZE
    return np.stack([offsets, entries["size"], entries["crc"]], 1), comment


def _directory_zip64(file: Any, comment: bytes) -> tuple[np.ndarray, bytes]:
    with zipfile.ZipFile(file) as archive:
        entries = []
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            name_size, extra_size = struct.unpack("<HH", file.read(4))
            entries.append((info.header_offset + 30 + name_size + extra_size, info.file_size, info.CRC))
        return np.array(entries, np.int64).reshape(-1, 3), archive.comment or comment
