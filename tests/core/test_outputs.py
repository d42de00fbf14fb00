from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import as_pulled

from twostream.core.cache import FileCache
from twostream.core.outputs import foreign_files, overlapping_output, refuse_foreign, replaced
from twostream.errors import UserError


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for name in ("clips/walk", "data/videos/walk", "models", "elsewhere/walk"):
        (tmp_path / "project" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def write(path: str, content: str = "a video") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)
    return Path(path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("data/videos", "'data/videos' lies in 'data/videos'"),
        ("./data/../data/videos/walk", "lies in 'data/videos'"),
        ("data", "'data' holds 'data/videos'"),
        (".", "holds 'data/videos'"),
        ("..", "holds 'data/videos'"),
        ("models", "lies in 'models'"),
    ],
)
def test_a_source_in_or_above_what_stages_write_is_named(project, source, words):
    message = overlapping_output(source)
    assert words in message and "move the clips to a folder of their own" in message and "\n" not in message
    assert overlapping_output(os.path.abspath(source))


@pytest.mark.parametrize(
    ("link", "target"), [("link", "data/videos"), ("clips/run", "data/videos/walk"), ("up", "data")]
)
def test_a_link_to_what_stages_write_is_named(project, link, target):
    Path(link).symlink_to(project / target)
    source = link.split("/")[0]
    assert f"through the link '{link}'" in overlapping_output(source)


def test_what_stages_write_may_not_be_a_link_to_the_source(project):
    Path("data/videos/walk").rmdir()
    Path("data/videos").rmdir()
    Path("data/videos").symlink_to(project / "clips")
    assert "'clips' lies in 'data/videos'" in overlapping_output("clips")


@pytest.mark.parametrize("source", ["clips", "data/tables", "nowhere", "", "twostream/datasets/demo", "modelscopy"])
def test_other_sources_are_free(project, source):
    Path("data/tables").mkdir()
    Path("modelscopy").mkdir()
    assert overlapping_output(source) == ""


@pytest.fixture
def cache(project) -> FileCache:
    return FileCache(project / ".dvc/cache/twostream", project / ".dvc/cache/files/md5")


def test_files_of_the_user_are_named_and_counted(project, cache):
    with pytest.raises(UserError, match="'data/videos/walk/1.avi' and 1 more: not made by a stage") as caught:
        write("data/videos/walk/1.avi")
        write("data/videos/walk/2.avi")
        refuse_foreign([Path("data/annotations"), Path("data/videos")], cache)
    assert "\n" not in str(caught.value)


def test_files_of_an_earlier_run_are_recognised(project, cache):
    write("data/videos/walk/1.avi", "one")
    as_pulled("data/videos", str(cache.objects))
    write("data/videos/walk/1.avi", "one")
    assert foreign_files(Path("data/videos"), cache) == []
    mine = write("data/videos/walk/2.avi", "two")
    assert foreign_files(Path("data/videos"), cache) == [mine]
    mine.unlink()
    with replaced([Path("data/videos")], cache):
        assert not list(Path("data/videos").iterdir())
        write("data/videos/walk/2.avi", "two")
    assert foreign_files(Path("data/videos"), cache) == []
    write("data/videos/walk/2.avi", "edited")
    assert foreign_files(Path("data/videos"), cache) == [mine]


@pytest.mark.parametrize("end", ["an error", "a kill"])
def test_files_of_a_stage_that_did_not_finish_are_recognised(project, cache, end):
    stage = replaced([Path("data/rgb")], cache)
    stage.__enter__()
    write("data/rgb/walk/1.zip")
    if end == "an error":
        stage.__exit__(ValueError, ValueError("of the stage"), None)
    assert foreign_files(Path("data/rgb"), cache) == []


@pytest.mark.parametrize("end", ["the end", "a kill"])
def test_files_of_a_stage_are_recognised_in_a_project_that_was_moved(project, cache, end):
    stage = replaced([Path("data/rgb")], cache)
    stage.__enter__()
    write("data/rgb/walk/1.zip")
    if end == "the end":
        stage.__exit__(None, None, None)
    moved = project.with_name("moved")
    os.rename(project, moved)
    os.chdir(moved)
    cache = FileCache(moved / ".dvc/cache/twostream", moved / ".dvc/cache/files/md5")
    assert foreign_files(Path("data/rgb"), cache) == []


def test_a_stage_deletes_nothing_where_it_finds_files_of_the_user(project, cache):
    with replaced([Path("models/spatial-1")], cache):
        write("models/spatial-1/model.pt")
    mine = write("data/rgb/walk/mine.zip")
    with pytest.raises(UserError, match="'data/rgb/walk/mine.zip'"):  # noqa: SIM117
        with replaced([Path("models/spatial-1"), Path("data/rgb")], cache):
            pass
    assert mine.exists() and Path("models/spatial-1/model.pt").exists()


def test_files_with_another_name_or_in_a_cache_lose_nothing(project, cache):
    os.link(write("elsewhere/walk/1.avi"), write("data/rgb/1.zip").with_name("2.zip"))
    Path("data/rgb/1.zip").unlink()
    cache.make("key", Path("data/rgb/3.zip"), lambda path: path.write_text("a clip"))
    copied = Path("data/rgb/3.zip").read_bytes()  # as DVC does with hard links before it runs a stage
    Path("data/rgb/3.zip").unlink()
    Path("data/rgb/3.zip").write_bytes(copied)
    assert foreign_files(Path("data/rgb"), cache) == []


def test_files_of_another_revision_are_recognised_by_their_content(project, cache):
    write("data/splits/9.csv", "of another revision")
    as_pulled("data/splits", str(cache.objects))
    Path("dvc.lock").unlink()
    write("data/splits/1.csv", "of another revision")
    assert foreign_files(Path("data/splits"), cache) == []


def test_links_are_the_users_and_what_file_browsers_leave_is_nobodys(project, cache):
    write("data/videos/walk/.DS_Store")
    write("data/videos/walk/._1.avi")
    write("data/videos/Thumbs.db")
    assert foreign_files(Path("data/videos"), cache) == []
    Path("data/videos/run").symlink_to(project / "clips")
    assert foreign_files(Path("data/videos"), cache) == [Path("data/videos/run")]
    Path("data/annotations").symlink_to(project / "clips")
    assert foreign_files(Path("data/annotations"), cache) == [Path("data/annotations")]
