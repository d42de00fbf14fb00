"""HMDB51 and UCF101: small sets of the official form, and the genuine lists and clips where they are at hand."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers import TEST_DATA, dataset_settings

from twostream import params
from twostream.datasets import get_dataset, official
from twostream.datasets.hmdb51 import HMDB51, source_of
from twostream.datasets.official import Benchmark
from twostream.datasets.splits import hold_out_validation, leaking_groups
from twostream.datasets.ucf101 import UCF101
from twostream.errors import UserError


def settings(name: str, source: Path | str, **changes: object) -> params.Dataset:
    return dataset_settings(**{"name": name, "source": str(source), "splits": [1, 2, 3], **changes})


def run(benchmark: Benchmark, dataset: params.Dataset, place: Path) -> SimpleNamespace:
    official.fetch(benchmark, dataset, place / "videos", place / "annotations", place / "scratch")
    assert all(path.suffix == ".lock" for path in (place / "scratch").iterdir())
    clips = official.list_clips(benchmark, dataset, place / "videos", place / "annotations")
    return SimpleNamespace(clips=clips, splits=official.list_splits(benchmark, dataset, clips, place / "annotations"))


def refused(benchmark: Benchmark, dataset: params.Dataset, place: Path) -> str:
    with pytest.raises(UserError) as caught:
        run(benchmark, dataset, place)
    assert not (place / "videos").exists() and not (place / "videos.part").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


SOURCES = ["(Rad)Schlag_die_Bank!", "#122_It's_a_[test];_&", "Film", "Other_Film_1"]


def hmdb_names() -> dict[str, list[str]]:
    """51 classes with a clip of each source; real classes hold others' names, as climb and climb_stairs."""
    labels = ["climb", "climb_stairs", *(f"act{i:02d}" for i in range(49))]
    return {c: [f"{s}_{c}_f_cm_np1_fr_med_{i}.avi" for i, s in enumerate(SOURCES)] for c in labels}


SMALL_HMDB51 = dataclasses.replace(HMDB51, clips=51 * 4)
SMALL_UCF101 = dataclasses.replace(UCF101, classes=2, clips=12)


@pytest.fixture
def small_hmdb() -> dict[str, bytes]:
    """The files of a complete HMDB51 of 204 clips: source n-1 is split n's test set, the last is unused."""
    names = hmdb_names()
    content = {f"hmdb51_org/{c}/{name}": name.encode() for c, clips in names.items() for name in clips}
    for n in (1, 2, 3):
        for c, clips in names.items():
            codes = ["2" if i == n - 1 else "0" if i == 3 else "1" for i in range(4)]
            lines = "".join(f"{name} {code} \r\n" for name, code in zip(clips, codes, strict=True))
            content[f"testTrainMulti_7030_splits/{c}_test_split{n}.txt"] = lines.encode()
    return content


def write(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


def check_small_hmdb(made: SimpleNamespace, place: Path) -> None:
    clips = made.clips.set_index("clip_id")
    assert len(clips) == 204 and set(clips["status"]) == {"ok"} and clips["class"].nunique() == 51
    assert set(clips["group"]) == set(SOURCES)
    for path in made.clips["path"]:
        assert (place / "videos" / path).read_bytes() == os.path.basename(path).encode()
    assert len(list((place / "annotations").iterdir())) == 153
    for n in (1, 2, 3):
        assert made.splits[n].value_counts().to_dict() == {"train": 102, "test": 51, "unused": 51}
        assert set(clips["group"][made.splits[n] == "test"]) == {SOURCES[n - 1]}


@pytest.mark.parametrize("benchmark", [HMDB51, UCF101], ids=lambda benchmark: benchmark.name)
def test_a_benchmark_is_found_by_its_name(tmp_path, benchmark):
    module, source = get_dataset(benchmark.name), settings(benchmark.name, tmp_path)
    with pytest.raises(UserError, match=f"no split lists of {benchmark.name}"):
        module.fetch(source, tmp_path / "videos", tmp_path / "annotations", tmp_path / "scratch")
    with pytest.raises(UserError, match="holds no "):
        module.list_clips(source, tmp_path / "videos", tmp_path / "annotations")


def test_hmdb51_from_a_folder(tmp_path, small_hmdb):
    made = run(SMALL_HMDB51, settings("hmdb51", write(tmp_path / "in", small_hmdb)), tmp_path)
    check_small_hmdb(made, tmp_path)


@pytest.mark.parametrize("nesting", ["flat", "class twice", "archive a class", "archives in a folder", "tar of zips"])
def test_hmdb51_from_any_nesting(tmp_path, small_hmdb, nesting):
    lists = {k: v for k, v in small_hmdb.items() if k.endswith(".txt")}
    videos = {k.removeprefix("hmdb51_org/"): v for k, v in small_hmdb.items() if k.endswith(".avi")}
    by_class = {c: {k: v for k, v in videos.items() if k.startswith(f"{c}/")} for c in hmdb_names()}
    archives = {f"{c}.zip": zipped(clips) for c, clips in by_class.items()}
    if nesting == "flat":
        content = {os.path.basename(k): v for k, v in small_hmdb.items()}
    elif nesting == "class twice":
        content = {**{f"{os.path.dirname(k)}/{k}": v for k, v in videos.items()}, **lists}
    elif nesting == "archive a class":
        content = {"hmdb51_org.zip": zipped(archives), **lists}
    else:
        content = {"hmdb51_org.zip": zipped(archives), "test_train_splits.zip": zipped(lists)}
    source = write(tmp_path / "in", content)
    if nesting == "tar of zips":
        with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
            archive.add(source, "whatever")
        source = tmp_path / "in.tar.gz"
    check_small_hmdb(run(SMALL_HMDB51, settings("hmdb51", source), tmp_path), tmp_path)


def test_videos_and_lists_may_come_from_different_mirrors(tmp_path, small_hmdb, capsys):
    lists = write(tmp_path / "lists", {k: v for k, v in small_hmdb.items() if k.endswith(".txt")})
    videos = write(tmp_path / "videos only", {k: v for k, v in small_hmdb.items() if k.endswith(".avi")})
    partial = write(tmp_path / "partial", dict(list(small_hmdb.items())[:3]))
    mirrors = {
        "videos": [{"path": str(tmp_path / "gone")}, {"path": str(partial)}, {"path": str(videos)}],
        "annotations": [{"path": str(videos)}, {"path": str(lists)}],
    }
    (tmp_path / "mirrors.yaml").write_text(yaml.safe_dump(mirrors))
    place = tmp_path / "out"
    check_small_hmdb(run(SMALL_HMDB51, settings("hmdb51", tmp_path / "mirrors.yaml"), place), place)
    said = capsys.readouterr().out
    assert "holds no split lists" in said and "201 of 204 clips are missing" in said


def test_another_ending_or_case_serves_where_the_exact_name_is_missing(tmp_path, small_hmdb):
    content = {k.replace("_climb_f_", "_CLIMB_f_"): v for k, v in small_hmdb.items() if not k.endswith(".txt")}
    content = {k[:-4] + ".mp4" if "act00" in k else k: v for k, v in content.items()}
    content.update({k: v for k, v in small_hmdb.items() if k.endswith(".txt")})
    made = run(SMALL_HMDB51, settings("hmdb51", write(tmp_path / "in", content)), tmp_path)
    assert set(made.clips["status"]) == {"ok"}
    paths = set(made.clips["path"])
    assert "act00/Film_act00_f_cm_np1_fr_med_2.mp4" in paths and "climb/Film_climb_f_cm_np1_fr_med_2.avi" in paths


def test_a_second_copy_and_a_stranger_are_left_out_and_counted(tmp_path, small_hmdb, capsys):
    name = "Film_climb_f_cm_np1_fr_med_2.avi"
    extra = {f"a copy/{name}": b"other", "hmdb51_org/climb/stranger.avi": b"x"}
    made = run(SMALL_HMDB51, settings("hmdb51", write(tmp_path / "in", {**extra, **small_hmdb})), tmp_path)
    check_small_hmdb(made, tmp_path)
    assert "2 videos" in capsys.readouterr().out


def test_what_is_missing_is_counted_and_allowed_only_when_asked(tmp_path, small_hmdb):
    content = {k: v for k, v in small_hmdb.items() if not k.startswith("hmdb51_org/act00/") and "Film_climb_f" not in k}
    source = write(tmp_path / "in", content)
    message = refused(SMALL_HMDB51, settings("hmdb51", source), tmp_path)
    assert "5 of 204 clips are missing" in message
    assert "4 of 4 in act00, 1 of 4 in climb;" in message and "dataset.allow_missing" in message
    made = run(SMALL_HMDB51, settings("hmdb51", source, allow_missing=True), tmp_path)
    gone = made.clips[made.clips["status"] == "missing"]
    assert len(gone) == 204 - sum(k.endswith(".avi") for k in content)
    assert set(gone["reason"]) == {"not in the source"} and len(made.clips) == 204


def test_without_lists_one_line_says_where_to_put_them(tmp_path, small_hmdb):
    source = write(tmp_path / "in", {k: v for k, v in small_hmdb.items() if k.endswith(".avi")})
    message = refused(SMALL_HMDB51, settings("hmdb51", source), tmp_path)
    assert "<class>_test_split<n>.txt" in message and "beside the videos" in message


def test_a_missing_list_file_and_a_class_too_few_are_errors(tmp_path, small_hmdb):
    partial = {k: v for k, v in small_hmdb.items() if not k.endswith("act03_test_split2.txt")}
    source = write(tmp_path / "in", partial)
    message = refused(SMALL_HMDB51, settings("hmdb51", source, allow_missing=True), tmp_path)
    assert "152 of the 153" in message and "'act03_test_split2.txt' is missing" in message
    for n in (1, 3):
        (source / "testTrainMulti_7030_splits" / f"act03_test_split{n}.txt").unlink()
    assert "50 of the 51 classes" in refused(SMALL_HMDB51, settings("hmdb51", source), tmp_path)
    assert run(SMALL_HMDB51, settings("hmdb51", source, allow_missing=True), tmp_path).clips["class"].nunique() == 50


@pytest.mark.parametrize(
    "line", ["Film_walk_f_cm_np1_fr_med_1.avi 1", "Film_climb_f_cm_np1_fr_med_1.avi 3", "../x.avi 1"]
)
def test_a_line_of_another_form_is_named(tmp_path, small_hmdb, line):
    small_hmdb["testTrainMulti_7030_splits/climb_test_split1.txt"] = line.encode()
    message = refused(SMALL_HMDB51, settings("hmdb51", write(tmp_path / "in", small_hmdb)), tmp_path)
    assert "climb_test_split1.txt" in message and repr(line) in message


def test_two_versions_of_a_list_are_an_error(tmp_path, small_hmdb):
    small_hmdb["other/climb_test_split1.txt"] = b"Film_climb_f_cm_np1_fr_med_2.avi 2\n"
    assert "differ" in refused(SMALL_HMDB51, settings("hmdb51", write(tmp_path / "in", small_hmdb)), tmp_path)


@pytest.mark.parametrize(
    ("name", "label", "source"),
    [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09"),
        ("50_FIRST_DATES_wave_f_cm_np1_fr_med_0.avi", "wave", "50_FIRST_DATES"),
        ("Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi", "cartwheel", "Turnk_r_Pippi_Michel"),
        ("x_climb_climb_f_cm_np1_le_med_1.avi", "climb", "x_climb"),
        ("x_climb_stairs_f_cm_np1_le_med_1.avi", "climb", None),
        ("clip.avi", "wave", None),
    ],
)
def test_the_source_of_an_hmdb51_name(name, label, source):
    assert source_of(name, label) == source


@pytest.fixture
def small_ucf() -> dict[str, bytes]:
    """12 clips: two classes, one of them spelt differently in its files, groups 1 to 3, one tested in each split."""
    called = {"Biking": "Biking", "HandstandPushups": "HandStandPushups"}
    names = [f"{c}/v_{called[c]}_g{g:02d}_c{k:02d}.avi" for c in called for g in (1, 2, 3) for k in (1, 2)]
    content = {f"UCF-101/{name}": name.encode() for name in names}
    for n in (1, 2, 3):
        test = [name for name in names if f"_g{n:02d}_" in name]
        train = [f"{name} {1 + name.startswith('H')}" for name in names if name not in test]
        content[f"ucfTrainTestlist/testlist0{n}.txt"] = "\r\n".join(test).encode()
        content[f"ucfTrainTestlist/trainlist0{n}.txt"] = "\r\n".join(train).encode()
    content["ucfTrainTestlist/classInd.txt"] = b"1 Biking\r\n2 HandstandPushups\r\n"
    return content


def test_ucf101_with_its_odd_spelling(tmp_path, small_ucf, capsys):
    made = run(SMALL_UCF101, settings("ucf101", write(tmp_path / "in", small_ucf)), tmp_path)
    assert set(made.clips["status"]) == {"ok"} and len(made.clips) == 12
    assert set(made.clips["class"]) == {"Biking", "HandstandPushups"}
    assert "HandstandPushups/v_HandStandPushups_g01_c01" in set(made.clips["clip_id"])
    assert {f"{c}_g0{g}" for c in ("Biking", "HandstandPushups") for g in (1, 2, 3)} == set(made.clips["group"])
    for n in (1, 2, 3):
        assert set(made.clips["group"][(made.splits[n] == "test").to_numpy()]) == {
            f"Biking_g0{n}",
            f"HandstandPushups_g0{n}",
        }
        assert leaking_groups(made.splits[n], made.clips) == {}
    assert capsys.readouterr().out == ""


def test_ucf101_spelt_alike_everywhere_serves_too(tmp_path, small_ucf):
    content = {k.replace("HandStand", "Handstand") if k.endswith(".avi") else k: v for k, v in small_ucf.items()}
    assert set(run(SMALL_UCF101, settings("ucf101", write(tmp_path / "in", content)), tmp_path).clips["status"]) == {
        "ok"
    }


def test_ucf101_lists_that_contradict_or_lack_one_are_errors(tmp_path, small_ucf):
    small_ucf["ucfTrainTestlist/testlist01.txt"] += b"\r\nBiking/v_Biking_g02_c01.avi"
    source = write(tmp_path / "in", small_ucf)
    assert "is in the train list too" in refused(SMALL_UCF101, settings("ucf101", source), tmp_path)
    (source / "ucfTrainTestlist" / "testlist03.txt").unlink()
    assert "5 of the 6 split lists" in refused(SMALL_UCF101, settings("ucf101", source), tmp_path)


@pytest.mark.skipif(not TEST_DATA.is_dir(), reason="TWOSTREAM_TEST_DATA is not set")
def test_genuine_hmdb51(tmp_path, capsys):
    source = TEST_DATA / "hmdb51"
    assert "6,760 of 6,766 clips are missing" in refused(HMDB51, settings("hmdb51", source), tmp_path)
    made = run(HMDB51, settings("hmdb51", source, allow_missing=True), tmp_path)
    assert made.clips["status"].value_counts().to_dict() == {"missing": 6760, "ok": 6}
    assert made.clips["class"].nunique() == 51
    for n in (1, 2, 3):
        assert made.splits[n].value_counts().to_dict() == {"train": 3570, "unused": 1666, "test": 1530}
        per_class = made.splits[n].groupby(made.clips.set_index("clip_id")["class"]).value_counts()
        assert set(per_class[:, "train"]) == {70} and set(per_class[:, "test"]) == {30}
        subset = hold_out_validation(made.splits[n], made.clips, n, 0.2, 0)
        # Official: sources may stand in train and test. Ours: none in val and train.
        official = made.splits[n].replace("test", "unused")
        assert leaking_groups(subset.where(official != "unused", "unused"), made.clips) == {}
        assert (subset == "val").sum() == pytest.approx(714, abs=216)  # three standard deviations over sources
    assert "in the official split 1, 133 sources have clips in both train and test" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not TEST_DATA.is_dir(), reason="TWOSTREAM_TEST_DATA is not set")
def test_genuine_ucf101(tmp_path):
    made = run(UCF101, settings("ucf101", TEST_DATA / "ucf101", allow_missing=True), tmp_path)
    assert len(made.clips) == 13320 and made.clips["class"].nunique() == 101 and made.clips["group"].nunique() == 2525
    assert [(s == "train").sum() for s in made.splits.values()] == [9537, 9586, 9624]  # from the data set's report
    assert all(leaking_groups(s, made.clips) == {} for s in made.splits.values())
    there = set(made.clips["clip_id"][made.clips["status"] == "ok"])
    assert len(there) == 36
    assert made.splits[1][sorted(there)].value_counts().to_dict() == {"train": 22, "test": 14}
