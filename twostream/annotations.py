"""Turn the time segments that annotation tools write into a table of clips for the data set `folder`."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from twostream.core.files import atomic_path
from twostream.datasets import is_video
from twostream.datasets.folder.table import cell_text, read_table
from twostream.datasets.folder.times import duration, find_span, seconds_text
from twostream.errors import UserError, reason
from twostream.sources.walk import walk_files
from twostream.video import Span

FEW_VIDEOS, BLOCKS = 3, 10  # with fewer videos, each is cut into so many groups
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
_Element = ElementTree.Element


class Mark(NamedTuple):
    """A labelled segment as a tool writes it, with times as in a table of clips, and where it stands in the file."""

    video: str
    label: str
    start: str
    end: str
    where: str


class Segment(NamedTuple):
    """A labelled span of a video, whose path is relative to the folder of the videos."""

    path: str
    span: Span
    label: str


def import_annotations(
    files: list[Path],
    videos: Path,
    *,
    format: str | None = None,
    layer: str | None = None,
    fps: float | None = None,
    background: str | None = None,
    blocks: int | None = None,
) -> list[dict[str, str]]:
    """Return the rows of a table of clips: path, class, start, end, and group where videos are cut into blocks.

    Args:
        files: what a tool exported.
        videos: the folder of the videos; in it they are found by name.
        format: a key of :data:`FORMATS`; None recognises each file by its content.
        layer: use only this tier (ELAN), control (Label Studio) or attribute (CVAT, VIA); its values are the classes.
        fps: frames per second by which Label Studio numbers frames; None takes its numbers for those of the video.
        background: the class of pieces of unlabelled time; None makes none.
        blocks: groups into which the time of each video is cut; None: 1, or :data:`BLOCKS` with few videos.

    Raises:
        UserError: a file cannot be read, has no segments or a wrong time, or its video is not there.
    """
    found = [path for path in walk_files(videos) if is_video(path)] if videos.is_dir() else []
    segments: dict[Segment, None] = {}
    for file in files:
        marks = list(_read(file, format, layer, fps))
        if not marks:
            of_layer = f" in {layer!r}" if layer else ""
            raise UserError(f"{file}: holds no labelled time segments{of_layer}; export them or use another --layer")
        for mark in marks:
            path = _find_video(mark, file, found, videos)
            try:
                span = find_span(videos / path, mark.start, mark.end)
            except ValueError as error:
                raise UserError(f"{file}, {mark.where}: {error}") from None
            segments[Segment(path.as_posix(), span or (0.0, duration(videos / path)), mark.label)] = None
    labelled = sorted(segments)
    if background:
        labelled = sorted([*labelled, *_unlabelled(labelled, videos, background)])
    paths = {segment.path for segment in labelled}
    if blocks is None and len(paths) < FEW_VIDEOS:
        blocks = BLOCKS
        print(
            f"import: {len(paths)} video(s) are too few to train on some and test on others, so the time of each is "
            f"cut into {BLOCKS} blocks, each a group; test clips are then of known recordings: expect less of others"
        )
    group_of = _blocks(labelled, blocks) if blocks and blocks > 1 else {}
    return [
        {
            "path": segment.path,
            "class": segment.label,
            "start": seconds_text(segment.span[0]),
            "end": seconds_text(segment.span[1]),
            **({"group": group_of[segment]} if group_of else {}),
        }
        for segment in labelled
    ]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a table of clips as CSV."""
    try:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)})") from None


def _read(file: Path, format: str | None, layer: str | None, fps: float | None) -> Iterator[Mark]:
    """Yield the segments of a file."""
    try:
        data = file.read_bytes()
        if data.startswith(b"PK\x03\x04"):  # CVAT exports an archive
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = archive.read("annotations.xml")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None
    content = _parsed(file, data)
    format = format or _recognised(content)
    kind = {"cvat": _Element, "elan": _Element, "csv": str}.get(format, (dict, list))
    if not isinstance(content, kind):
        raise UserError(f"{file}: is not a file of {format}; leave out --from, or name another format")
    try:
        for mark in FORMATS[format](content, file, layer):
            label = cell_text(mark.label)
            if not label:
                raise UserError(f"{file}, {mark.where}: the label is empty; give it one")
            yield mark._replace(label=label, start=_by_rate(mark.start, fps), end=_by_rate(mark.end, fps))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{file}: is not a sound file of {format} ({reason(error)}); export it again") from None


def _parsed(file: Path, data: bytes) -> Any:
    """Return the root element of XML, the value of JSON, or the text itself."""
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    try:
        if start == b"<":
            if b"<!ENTITY" in data:
                raise UserError(f"{file}: defines entities, which no annotation tool writes; export it again")
            return ElementTree.fromstring(data)
        if start in (b"{", b"["):
            return json.loads(data.decode("utf-8-sig"))
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: is damaged ({reason(error)}); export it again") from None
    return ""


def _recognised(content: Any) -> str:
    if isinstance(content, _Element):
        return "elan" if content.tag == "ANNOTATION_DOCUMENT" else "cvat"
    if isinstance(content, dict) and {"metadata", "file"} <= content.keys():
        return "via"
    return "csv" if isinstance(content, str) else "label-studio"


def _by_rate(time: str, fps: float | None) -> str:
    return seconds_text(int(time[:-1]) / fps) if fps and time.endswith("f") else time


# --- the formats ------------------------------------------------------------------------------------------------------


def _label_studio(tasks: Any, _: Path, layer: str | None) -> Iterator[Mark]:
    """Yield the regions of JSON and JSON-MIN exports: frame ranges of TimelineLabels, and seconds of Labels."""
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks], 1):
        where = f"task {task.get('id', number)}"
        data = task.get("data", task)
        video = next((name for name in map(_name_of_url, data.values()) if name), "")
        for control, value in _regions(task):
            labels: list[str] = next((names for key, names in value.items() if key.endswith("labels")), [])
            if layer is not None and control != layer:
                continue
            spans = [(f"{int(one['start']) - 1}f", f"{int(one['end'])}f") for one in value.get("ranges", [])]
            if "start" in value and "end" in value:
                spans.append((seconds_text(float(value["start"])), seconds_text(float(value["end"]))))
            for start, end in spans:
                for label in labels:
                    yield Mark(video, label, start, end, where)


def _regions(task: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the control and the value of each region of a task."""
    if "data" not in task:  # JSON-MIN: a list of regions per control
        for control, values in task.items():
            yield from (
                ((control, value) for value in values if isinstance(value, dict)) if isinstance(values, list) else ()
            )
        return
    made = [one for one in task.get("annotations", task.get("completions", [])) if not one.get("was_cancelled")]
    chosen = [one for one in made if one.get("ground_truth")] or made
    for result in chosen[-1]["result"] if chosen else []:  # of several annotators, the last one
        if isinstance(result.get("value"), dict):
            yield result.get("from_name", ""), result["value"]


def _name_of_url(value: Any) -> str:
    """Return the path of a video in an address, or "" if it is none: of `?d=` in those of local storage."""
    if not isinstance(value, str):
        return ""
    parts = urlsplit(value)
    path = unquote(parse_qs(parts.query).get("d", [parts.path])[0] if parts.scheme or parts.query else value)
    return path if is_video(path) else ""


def _cvat(root: _Element, _: Path, layer: str | None) -> Iterator[Mark]:
    """Yield the visible parts of the tracks of `CVAT for video`, and runs of frames with a tag of `CVAT for images`."""
    video = next((text for tag in ("source", "name") for one in root.iter(tag) if is_video(text := one.text or "")), "")
    for track in root.iter("track"):
        shapes = [(int(one.attrib["frame"]), one) for one in track if "frame" in one.attrib]
        states = [(frame, _cvat_class(track, one, layer)) for frame, one in sorted(shapes, key=lambda pair: pair[0])]
        where = f"track {track.get('id')}"
        yield from _runs(video, states, where)
    tagged: dict[str, list[int]] = {}
    frames = [int(image.attrib["id"]) for image in root.iter("image")]
    for image in root.iter("image"):
        for tag in image.iter("tag"):
            if label := _cvat_class(tag, tag, layer):
                tagged.setdefault(label, []).append(int(image.attrib["id"]))
    for label, numbers in tagged.items():
        yield from _runs(video, [(frame, label if frame in set(numbers) else None) for frame in frames], "images")


def _cvat_class(labelled: _Element, shape: _Element, layer: str | None) -> str | None:
    """Return the label of a track or tag, or the value of an attribute of a shape; None where it is outside."""
    if shape.get("outside") == "1":
        return None
    if layer is None:
        return labelled.attrib["label"]
    return next((one.text for one in [*shape, *labelled] if one.tag == "attribute" and one.get("name") == layer), None)


def _runs(video: str, states: list[tuple[int, str | None]], where: str) -> Iterator[Mark]:
    """Yield the runs of one label among the labels from frames on."""
    first, current = 0, None
    for frame, label in [*states, (states[-1][0] + 1, None)] if states else []:
        if label != current:
            if current is not None:
                yield Mark(video, current, f"{first}f", f"{frame}f", where)
            first, current = frame, label


def _via(project: dict[str, Any], _: Path, layer: str | None) -> Iterator[Mark]:
    """Yield the temporal segments of a project of VIA 3, with the names of the options that were chosen."""
    files, attributes = project["file"], project.get("attribute", {})
    for key, entry in project["metadata"].items():
        times = entry.get("z", [])
        if len(times) != 2 or entry.get("xy"):
            continue
        view = project.get("view", {}).get(entry["vid"], {"fid_list": [entry["vid"]]})
        video = files[str(view["fid_list"][0])]
        for number, value in entry["av"].items():
            attribute = attributes.get(number, {})
            if layer is not None and attribute.get("aname") != layer:
                continue
            for one in str(value).split(",") if attribute.get("options") else [str(value)]:
                label = attribute.get("options", {}).get(one, one)
                start, end = (seconds_text(float(time)) for time in times)
                yield Mark(video.get("src") or video["fname"], label, start, end, f"segment {key}")


def _elan(root: _Element, file: Path, layer: str | None) -> Iterator[Mark]:
    """Yield the annotations of ELAN that have times of their own; the label of one without a value is its tier."""
    media = [
        (address, int(one.get("TIME_ORIGIN") or 0))
        for one in root.iter("MEDIA_DESCRIPTOR")
        for address in (one.get("MEDIA_URL", ""), one.get("RELATIVE_MEDIA_URL", ""))
        if is_video(address)
    ]
    address, origin = media[0] if media else ("", 0)
    slots = {one.attrib["TIME_SLOT_ID"]: one.get("TIME_VALUE") for one in root.iter("TIME_SLOT")}
    for tier in root.iter("TIER"):
        if layer is not None and tier.attrib["TIER_ID"] != layer:
            continue
        for one in tier.iter("ALIGNABLE_ANNOTATION"):
            times = [slots[one.attrib[f"TIME_SLOT_REF{side}"]] for side in (1, 2)]
            where = f"annotation {one.get('ANNOTATION_ID')}"
            if None in times:
                raise UserError(f"{file}, {where}: has no time of its own; align it in ELAN")
            start, end = (seconds_text((int(time) + origin) / 1000) for time in times if time is not None)
            label = (one.findtext("ANNOTATION_VALUE") or "").strip() or tier.attrib["TIER_ID"]
            yield Mark(unquote(urlsplit(address).path), label, start, end, where)


def _csv(_: str, file: Path, layer: str | None) -> Iterator[Mark]:
    """Yield the rows of a table with the columns of a table of clips, under their usual other names too."""
    if layer is not None:
        raise UserError("--layer: a CSV has none; leave it out")
    columns, rows = read_table(file, rename=True)
    if "class" not in columns or not {"start", "end"} & set(columns):
        raise UserError(f"{file}: needs the columns video, start, end and label; it has {', '.join(columns)}")
    for row in rows:
        cells = {name: cell_text(cell) for name, cell in row.cells.items()}
        yield Mark(cells["path"], cells["class"], cells.get("start", ""), cells.get("end", ""), f"line {row.line}")


FORMATS: dict[str, Callable[[Any, Path, str | None], Iterator[Mark]]] = {
    "label-studio": _label_studio,
    "cvat": _cvat,
    "via": _via,
    "elan": _elan,
    "csv": _csv,
}


# --- videos, unlabelled time, groups ----------------------------------------------------------------------------------


def _find_video(mark: Mark, file: Path, found: list[Path], videos: Path) -> Path:
    """Return the video of a segment, relative to the folder of the videos: the one of its name, by its folders too."""
    wanted = Path(mark.video.replace("\\", "/"))
    names = {wanted.name, _UPLOADED.sub("", wanted.name, count=1)}
    matches = [path for path in found if path.name in names]
    if not wanted.name and len(found) == 1:  # the file names no video
        matches = found

    def common(path: Path) -> int:
        pairs = zip(reversed(path.parts), reversed(wanted.parts), strict=False)
        return next((number for number, (one, other) in enumerate(pairs) if one != other), len(path.parts))

    best = [path for path in matches if common(path) == max(map(common, matches))]
    if len(best) == 1:
        return best[0]
    what = f"video {mark.video!r} is {'twice' if best else 'not'} in {videos}" if mark.video else "names no video"
    raise UserError(f"{file}, {mark.where}: {what}; name the folder of the videos with --videos")


def _unlabelled(segments: list[Segment], videos: Path, label: str) -> list[Segment]:
    """Return pieces of the time without labels, at most as many as segments.

    They are as long as the median segment; a gap of at least half its length is one piece.
    """
    length = statistics.median(end - start for _, (start, end), _ in segments)
    pieces: list[Segment] = []
    for path in dict.fromkeys(segment.path for segment in segments):
        free, reached = [], 0.0
        for _, (start, end), _ in [one for one in segments if one.path == path]:
            free.append((reached, start))
            reached = max(reached, end)
        free.append((reached, duration(videos / path)))
        for start, end in free:
            count = int((end - start) / length) or int(end - start >= length / 2)
            piece = min(length, end - start)
            margin = (end - start - count * piece) / 2
            times = [start + margin + number * piece for number in range(count)]
            pieces += [
                Segment(path, span, label)
                for time in times
                if (span := find_span(videos / path, seconds_text(time), seconds_text(time + piece)))
            ]
    if not pieces:
        raise UserError(
            f"--background: no unlabelled time is half as long as the median segment, {length:.2f} s; leave it out, or "
            "add videos in which nothing happens for a while"
        )
    step = max(1.0, len(pieces) / len(segments))
    return [pieces[int(number * step)] for number in range(int(len(pieces) / step))]


def _blocks(segments: list[Segment], count: int) -> dict[Segment, str]:
    """Return the group of each segment: blocks of the time of a video; segments that overlap are in one."""
    groups = {}
    for path in dict.fromkeys(segment.path for segment in segments):
        islands: list[list[Segment]] = []
        reached = -1.0
        for segment in [one for one in segments if one.path == path]:
            if segment.span[0] >= reached:
                islands.append([])
            islands[-1].append(segment)
            reached = max(reached, segment.span[1])
        for number, island in enumerate(islands):
            groups.update(dict.fromkeys(island, f"{path}#{number * count // len(islands) + 1:02d}"))
    return groups
