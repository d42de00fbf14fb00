"""Segments of annotation tools become one table of clips, whatever the tool. Fixtures follow the tools' own formats."""

from __future__ import annotations

import csv
import json
import zipfile
from types import SimpleNamespace

import pytest
from folders import settings
from helpers import moving_texture, write_video

from twostream.annotations import import_annotations, write_rows
from twostream.core.cache import RecordCache
from twostream.datasets.probing import list_and_probe
from twostream.datasets.tables import write_table
from twostream.errors import UserError

RATE, FRAMES = 30, 300  # 10 seconds; frames that are no whole number of milliseconds
NAMES = ("day 1.mp4", "day 2.mp4", "day 3.mp4")
# Video, label, first frame, frame after the last one. Two overlap, two touch.
SEGMENTS = [
    ("day 1.mp4", "walk", 10, 67),
    ("day 1.mp4", "wave", 40, 100),
    ("day 1.mp4", "walk", 100, 141),
    ("day 2.mp4", "walk", 0, 50),
    ("day 2.mp4", "wave", 200, 300),
    ("day 3.mp4", "wave", 31, 95),
    ("day 3.mp4", "walk", 150, 211),
]
LABELS = ("walk", "wave")


@pytest.fixture
def videos(tmp_path):
    for seed, name in enumerate(NAMES):
        write_video(tmp_path / "videos" / name, moving_texture(FRAMES, 32, 32, step=1, seed=seed), rate=RATE)
    return tmp_path / "videos"


def of(video):
    return [segment[1:] for segment in SEGMENTS if segment[0] == video]


def label_studio(folder):
    """JSON export of a project with TimelineLabels: frames from 1, the last one included."""
    tasks = []
    for number, name in enumerate(NAMES, 1):
        result = [
            {
                "id": f"r{index}",
                "type": "timelinelabels",
                "from_name": "videoLabels",
                "to_name": "video",
                "origin": "manual",
                "value": {"ranges": [{"start": first + 1, "end": last}], "timelinelabels": [label]},
            }
            for index, (label, first, last) in enumerate(of(name))
        ]
        annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": result}
        url = f"/data/upload/1/0a1b2c3d-{name.replace(' ', '%20')}"
        tasks.append({"id": number, "annotations": [annotation], "data": {"video": url, "note": "x"}, "project": 1})
    return [written(folder / "project.json", json.dumps(tasks))]


def cvat(folder):
    """`CVAT for video 1.1`: a file per task; a track is outside from the frame after its last one."""
    files = []
    for name in NAMES:
        tracks = ""
        for number, (label, first, last) in enumerate(of(name)):
            boxes = [(frame, 0) for frame in (first, last - 1)] + [(last, 1)] * (last < FRAMES)
            shapes = "".join(
                f'<box frame="{frame}" outside="{outside}" occluded="0" keyframe="1" xtl="1" ytl="1" xbr="9" ybr="9" '
                'z_order="0"><attribute name="hand">left</attribute></box>'
                for frame, outside in boxes
            )
            tracks += f'<track id="{number}" label="{label}" source="manual">{shapes}</track>'
        labels = "".join(f"<label><name>{label}</name><type>any</type></label>" for label in LABELS)
        task = (
            f"<id>7</id><name>task of {name[:5]}</name><size>{FRAMES}</size><mode>interpolation</mode>"
            f"<labels>{labels}</labels><original_size><width>32</width><height>32</height></original_size>"
            f"<source>{name}</source>"
        )
        xml = (
            f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task>{task}</task></meta>'
        )
        archive = folder / f"{name[:5]}.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("annotations.xml", f"{xml}{tracks}</annotations>")
        files.append(archive)
    return files


def via(folder):
    """A project of VIA 3: seconds, and labels as options of an attribute."""
    project = {
        "project": {"pid": "__VIA_PROJECT_ID__", "pname": "x", "vid_list": ["1", "2", "3"]},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}, "ui": {}},
        "attribute": {
            "1": {
                "aname": "activity",
                "anchor_id": "FILE1_Z2_XY0",
                "type": 4,
                "options": dict(enumerate(LABELS)),
                "default_option_id": "",
            }
        },
        "file": {
            str(n): {"fid": n, "fname": name, "type": 4, "loc": 1, "src": name} for n, name in enumerate(NAMES, 1)
        },
        "view": {str(n): {"fid_list": [n]} for n in (1, 2, 3)},
        "metadata": {
            f"{NAMES.index(video) + 1}_k{number}": {
                "vid": str(NAMES.index(video) + 1),
                "flg": 0,
                "z": [first / RATE, last / RATE],
                "xy": [],
                "av": {"1": str(LABELS.index(label))},
            }
            for number, (video, label, first, last) in enumerate(SEGMENTS)
        },
    }
    return [written(folder / "via.json", json.dumps(project))]


def elan(folder):
    """An EAF file per video: a tier, and milliseconds in time slots."""
    files = []
    for name in NAMES:
        slots, annotations = "", ""
        for number, (label, *frames) in enumerate(of(name)):
            ids = [f"ts{2 * number + side}" for side in (1, 2)]
            for slot, frame in zip(ids, frames, strict=True):
                slots += f'<TIME_SLOT TIME_SLOT_ID="{slot}" TIME_VALUE="{round(1000 * frame / RATE)}"/>'
            annotations += (
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{number}" TIME_SLOT_REF1="{ids[0]}" '
                f'TIME_SLOT_REF2="{ids[1]}"><ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>'
            )
        media = f'MEDIA_URL="file:///C:/{name.replace(" ", "%20")}" MIME_TYPE="video/mp4" RELATIVE_MEDIA_URL="./x"'
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ANNOTATION_DOCUMENT AUTHOR="" DATE="2024-01-01T00:00:00+00:00" '
            'FORMAT="3.0" VERSION="3.0"><HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">'
            f"<MEDIA_DESCRIPTOR {media}/></HEADER><TIME_ORDER>{slots}</TIME_ORDER>"
            f'<TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="activity">{annotations}</TIER>'
            '<LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default-lt" TIME_ALIGNABLE="true"/>'
            "</ANNOTATION_DOCUMENT>"
        )
        files.append(written(folder / f"{name[:5]}.eaf", text))
    return files


def plain(folder):
    rows = [f"{video};{first / RATE:.2f};{last}f;{label}" for video, label, first, last in SEGMENTS]
    return [written(folder / "table.csv", "\n".join(["video;start;end;label", *rows]) + "\n")]


FORMATS = {"label-studio": label_studio, "cvat": cvat, "via": via, "elan": elan, "csv": plain}


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def clips_csv(videos, files, place, **options):
    """Return the bytes of `data/clips.csv` that the pipeline makes of the imported table."""
    write_rows(videos / "split.csv", import_annotations(files, videos, **options))
    found, dataset = SimpleNamespace(videos=place / "v", annotations=place / "a"), settings(videos)
    from twostream.datasets import folder

    folder.fetch(dataset, found.videos, found.annotations, place / "s")
    cache = RecordCache(videos.parent / "probes.jsonl")
    write_table(list_and_probe(dataset, found.videos, found.annotations, cache, workers=1), place / "clips.csv")
    return (place / "clips.csv").read_bytes()


def test_the_same_segments_give_the_same_clips_in_all_formats(videos, tmp_path):
    made = {}
    for name, write in FORMATS.items():
        (tmp_path / name).mkdir()
        files = write(tmp_path / name)
        made[name] = clips_csv(videos, files, tmp_path / name)
        assert import_annotations(files, videos, format=name) == import_annotations(files, videos)
    assert set(made.values()) == {made["csv"]}
    rows = list(csv.DictReader(made["csv"].decode().splitlines()))
    assert sorted((row["path"].split("/")[1], row["class"], int(row["frames"])) for row in rows) == sorted(
        (video, label, last - first) for video, label, first, last in SEGMENTS
    )


def test_other_forms_of_label_studio(videos, tmp_path):
    """JSON-MIN, frames of another rate than the video's, and regions in seconds, as of sound."""
    ranges = [{"ranges": [{"start": 26, "end": 75}], "timelinelabels": ["walk"]}]
    sound = [{"start": 1.0, "end": 3, "channel": 0, "labels": ["wave"]}]
    tasks = [{"id": 3, "video": "s3://bucket/a/day%201.mp4?sig=1", "timeline": ranges, "sound": sound}]
    file = written(tmp_path / "min.json", json.dumps(tasks))
    rows = import_annotations([file], videos, fps=25, blocks=1)
    assert rows == [
        {"path": "day 1.mp4", "class": "walk", "start": "1", "end": "3"},
        {"path": "day 1.mp4", "class": "wave", "start": "1", "end": "3"},
    ]
    assert [row["class"] for row in import_annotations([file], videos, layer="sound", blocks=1)] == ["wave"]
    local = [{"id": 1, "data": {"video": "/data/local-files/?d=in/day%203.mp4"}, "annotations": [{"result": []}]}]
    local[0]["annotations"][0]["result"] = [{"from_name": "t", "type": "timelinelabels", "value": ranges[0]}]
    file = written(tmp_path / "local.json", json.dumps(local))
    assert import_annotations([file], videos, blocks=1)[0]["path"] == "day 3.mp4"


def test_attributes_and_tags_of_cvat(videos, tmp_path):
    boxes = "".join(
        f'<box frame="{frame}" outside="0"><attribute name="action">{value}</attribute></box>'
        for frame, value in ((0, "sit"), (10, "sit"), (30, "stand"), (59, "stand"))
    )
    meta = "<meta><task><source>day 1.mp4</source></task></meta>"
    track = f'<track id="0" label="person">{boxes}</track>'
    file = written(tmp_path / "track.xml", f"<annotations>{meta}{track}</annotations>")
    rows = import_annotations([file], videos, layer="action", blocks=1)
    assert [(row["class"], row["start"], row["end"]) for row in rows] == [("sit", "0", "1"), ("stand", "1", "2")]
    tags = {**dict.fromkeys(range(30, 60), "walk"), **dict.fromkeys(range(90, 120), "walk")}
    images = "".join(
        f'<image id="{n}" name="f{n}">{f"""<tag label="{tags[n]}"></tag>""" if n in tags else ""}</image>'
        for n in range(150)
    )
    file = written(tmp_path / "tags.xml", f"<annotations>{meta}{images}</annotations>")
    rows = import_annotations([file], videos, blocks=1)
    assert [(row["start"], row["end"]) for row in rows] == [("1", "2"), ("3", "4")]


def test_tiers_without_values_are_the_labels(videos, tmp_path):
    (file, *_) = elan(tmp_path)
    file.write_text(file.read_text().replace(">walk<", "><").replace("activity", "pace"))
    assert {row["class"] for row in import_annotations([file], videos, blocks=1)} == {"pace", "wave"}
    with pytest.raises(UserError, match="holds no labelled time segments in 'other'"):
        import_annotations([file], videos, layer="other")


def test_background_is_unlabelled_time(videos, tmp_path):
    rows = import_annotations(plain(tmp_path), videos, background="nothing")
    pieces = [row for row in rows if row["class"] == "nothing"]
    assert 3 <= len(pieces) <= len(SEGMENTS)
    for row in pieces:
        start, end = float(row["start"]), float(row["end"])
        assert 30 / RATE - 0.05 < end - start < 60 / RATE + 0.05  # from half the median to the median
        assert not [
            one
            for one in SEGMENTS
            if one[0] == row["path"] and one[2] / RATE < end - 1e-3 and one[3] / RATE > start + 1e-3
        ]


def test_the_time_of_a_single_video_is_cut_into_groups(videos, tmp_path, capsys):
    rows = [f"day 1.mp4,{n}.0,{n + 1}.5,{LABELS[n % 2]}" for n in range(0, 8, 2)] + [
        "day 1.mp4,8,9,walk",
        "day 1.mp4,8.5,9.5,wave",
    ]
    file = written(tmp_path / "one.csv", "\n".join(["video,start,end,label", *rows]) + "\n")
    found = import_annotations([file], videos)
    assert "cut into 10 blocks" in capsys.readouterr().out
    assert [row["group"] for row in found] == [f"day 1.mp4#{n:02d}" for n in (1, 3, 5, 7, 9, 9)]
    assert "group" not in import_annotations(plain(tmp_path), videos)[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "holds no labelled time segments"),
        ("{", "is damaged"),
        ("<a>", "is damaged"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "defines entities"),
        ('[{"data": 3}]', "is not a sound file of label-studio"),
        ("video,start,end,label\nday 1.mp4,3,2,walk\n", "line 2: end '2' must be two frames or more after start '3'"),
        ("video,start,end,label\nday 1.mp4,3,99,walk\n", "line 2: end '99' is beyond the end of the video"),
        ("video,start,end,label\nday 9.mp4,3,4,walk\n", "line 2: video 'day 9.mp4' is not in"),
        ("video,start,end,label\nday 1.mp4,3,4,\n", "line 2: the label is empty"),
        ("video,label\nday 1.mp4,walk\n", "needs the columns video, start, end and label"),
    ],
)
def test_a_wrong_file_gets_one_line(videos, tmp_path, content, problem):
    file = written(tmp_path / "file.txt", content)
    with pytest.raises(UserError) as caught:
        import_annotations([file], videos)
    assert str(caught.value).startswith(f"{file}") and problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_format_is_refused(videos, tmp_path):
    with pytest.raises(UserError, match="is not a file of elan; leave out --from"):
        import_annotations(via(tmp_path), videos, format="elan")
