"""Archives as `dataset.source` that try to write outside, to fill the disk, or to lose a file without a word."""

from __future__ import annotations

import io
import lzma
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from torture.ledger import Case, Lost, Wrong, check_no_traceback, check_refused
from torture.project import Project

GOOD = ("left/ann_left_1.avi", "right/ann_right_1.avi")
Members = list[tuple[str, bytes]]


def cases(project: Project, rng: random.Random, is_small: bool = False) -> Iterator[Case]:
    """Yield the cases; a small part of them leaves the large files out."""
    clips = [(name, (project.clips / name).read_bytes()) for name in GOOD]
    video = clips[0][1]
    for kind, make in MAKERS.items():
        for name in OUTSIDE:
            yield _case(project, f"{kind} with {name!r}", make([*clips, (name, b"evil")]), "outside")
        for name in (GOOD[0], "left", "left/ann_left_1.avi/x.avi", "LEFT/ann_left_1.avi"):
            yield _case(project, f"{kind} with {name!r} again", make([*clips, (name, video)]), "refused")
        for name in ODD:
            yield _case(project, f"{kind} with {name!r}", make([*clips, (name, video)]), 3)
        whole = make(clips)
        for cut in sorted(rng.randrange(1, len(whole.rstrip(b"\0"))) for _ in range(3)):
            yield _case(project, f"{kind} cut at {cut}", whole[:cut], "refused")
        for _ in range(5):
            data = bytearray(whole)
            for _ in range(rng.choice([1, 10])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            yield _case(project, f"{kind} with flipped bits", bytes(data), "any")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        for target in ("/etc/passwd", "../../params.yaml", "ann_left_1.avi"):
            yield _case(
                project, f"tar with a member of type {kind!r}", _tar(clips, ("left/odd.avi", kind, target)), "refused"
            )
    link = _zip(clips, ("left/odd.avi", (stat.S_IFLNK | 0o777) << 16, "/etc/passwd"))
    yield _case(project, "zip with a link", link, "refused")
    yield _case(project, "zip that is encrypted", _encrypted(_zip(clips)), "refused")
    yield _case(project, "archives nested 40 levels deep", _nested(clips, 40), "refused")
    for name, content in (("a web page", b"<!DOCTYPE html>"), ("nothing", b""), ("noise", rng.randbytes(5000))):
        yield _case(project, f"{name} as an archive", content, "refused")
    if not is_small:
        zeros = [("left/zeros.avi", 1300 * 2**20)]
        yield _case(project, "a tar of 1.3 GB, compressed 5,000-fold", _bomb(zeros), "refused")


OUTSIDE = (
    "../evil.avi",
    "left/../../evil.avi",
    "/tmp/torture-evil.avi",
    "../../../../../../tmp/torture-evil.avi",
    "..",
)
ODD = (
    *("left/ANN_LEFT_1.AVI", "left/new\nline.avi", "left/[x] & ;'\" $(touch evil).avi"),
    *("left/-rf.avi", "left/ünï \u202e.avi", "left/" + "x" * 240 + ".avi"),
)


def _case(project: Project, name: str, archive: bytes, expected: str | int) -> Case:
    return Case("hostile archive", name, lambda: _check(project, archive, expected))


def _check(project: Project, archive: bytes, expected: str | int) -> None:
    """Download from an archive: it is refused and leaves nothing, or all its videos arrive; then from a sound one."""
    project.restore("new")
    file = project.top / "now" / "source.archive"
    parameters = project.folder / "params.yaml"
    values = yaml.safe_load(parameters.read_text())
    values["dataset"]["source"] = str(file)
    parameters.write_text(yaml.safe_dump(values, sort_keys=False))
    file.write_bytes(archive)
    before = _listing(project)
    code, output = project.run("stages.download")
    if new := _listing(project) - before:
        raise Wrong(f"written outside: {sorted(new)[:3]}")
    videos = [path for path in (project.folder / "data/videos").rglob("*") if path.is_file()]
    if isinstance(expected, int):
        if code or len(videos) != expected:
            raise Lost(f"{len(videos)} of {expected} videos arrived: {output[-300:]!r}")
    elif expected == "any":
        check_no_traceback(output)
    else:
        check_refused(code, output)
        if videos:
            raise Wrong("a refused archive left videos")
    file.write_bytes(_zip([(name, (project.clips / name).read_bytes()) for name in GOOD]))
    code, output = project.run("stages.download")
    found = {
        str(path.relative_to(project.folder / "data/videos"))
        for path in (project.folder / "data/videos").rglob("*.avi")
    }
    if code or found != set(GOOD):
        raise Lost(f"a sound archive brings {sorted(found)}: {output[-300:]!r}")


def _listing(project: Project) -> set[str]:
    """Return the files where a stage must not add any: beside the project, in it, and in /tmp."""
    places = (project.top / "now", project.top, Path("/tmp"), project.folder, project.folder / "data")
    return {
        f"{place}/{name}" for place in places for name in os.listdir(place) if "evil" in name or place != Path("/tmp")
    } - {str(project.folder / "data" / name) for name in ("videos", "annotations")}


def _zip(members: Members, *odd: tuple[str, int, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        for name, mode, content in odd:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode
            archive.writestr(info, content)
    return buffer.getvalue()


def _tar(members: Members, *odd: tuple[str, bytes, str], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind, target in odd:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return buffer.getvalue()


MAKERS: dict[str, Callable[[Members], bytes]] = {
    "zip": _zip,
    "tar": _tar,
    "tar.gz": lambda members: _tar(members, mode="w:gz"),
}


def _encrypted(archive: bytes) -> bytes:
    """Set the flag that says so in every header (APPNOTE 4.4.4)."""
    data = bytearray(archive)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(mark, at + 4)
    return bytes(data)


def _nested(members: Members, levels: int) -> bytes:
    for _ in range(levels):
        members = [("left/inner.zip", _zip(members))]
    return _zip(members)


def _bomb(sizes: list[tuple[str, int]]) -> bytes:
    """Return a compressed tar of files of zeros, made without holding them in memory."""
    compressor, parts = lzma.LZMACompressor(), []
    for name, size in sizes:
        info = tarfile.TarInfo(name)
        info.size = size
        parts.append(compressor.compress(info.tobuf()))
        parts += [compressor.compress(bytes(2**20)) for _ in range(size // 2**20)]
    return b"".join([*parts, compressor.compress(bytes(1024)), compressor.flush()])
