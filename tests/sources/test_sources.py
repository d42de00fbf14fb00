from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from twostream import sources
from twostream.errors import UserError
from twostream.sources import check_source, obtain, read_mirrors, scratch_folder


def names(roots: list[Path]) -> list[str]:
    found = sorted(p.relative_to(root).as_posix() for root in roots for p in root.rglob("*.avi"))
    if not found:
        raise UserError("no videos")
    return found


def archive(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for name in members:
            target.writestr(name, name)
    return path


def mirrors(path: Path, *sources: dict) -> str:
    path.write_text(yaml.safe_dump({"videos": list(sources)}))
    return str(path)


def hub(*names: str) -> dict:
    return {"huggingface": {"repo": "a/b", "revision": "a" * 40, "files": [{"name": name} for name in names]}}


def test_a_mirror_in_what_stages_write_is_refused(tmp_path, monkeypatch):
    (tmp_path / "data" / "videos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    check_source(mirrors(tmp_path / "good.yaml", {"path": "clips"}, hub("a.zip")))
    with pytest.raises(UserError, match="'data/videos' lies in 'data/videos'"):
        check_source(mirrors(tmp_path / "bad.yaml", {"path": "clips"}, {"path": "data/videos"}))


def test_a_folder_is_used_where_it_is(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.avi").touch()
    assert obtain(str(tmp_path / "data"), tmp_path / "scratch", lambda roots: roots) == [tmp_path / "data"]


def test_an_archive_is_unpacked_once(tmp_path):
    source = archive(tmp_path / "x.zip", "wave/a.avi")
    first = obtain(str(source), tmp_path / "scratch", lambda roots: roots)
    (first[0] / "mark").touch()
    assert obtain(str(source), tmp_path / "scratch", lambda roots: roots) == first
    assert (first[0] / "mark").exists()
    archive(source, "wave/a.avi", "wave/b.avi")
    assert obtain(str(source), tmp_path / "scratch", names) == ["wave/a.avi", "wave/b.avi"]


def test_archives_in_a_folder_are_unpacked_beside_it_when_it_does_not_serve_without(tmp_path):
    (tmp_path / "data").mkdir()
    archive(tmp_path / "data" / "x.zip", "wave/a.avi")
    assert obtain(str(tmp_path / "data"), tmp_path / "scratch", names) == ["wave/a.avi"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["x.zip"], "the user's folder is left as it is"
    with pytest.raises(UserError, match="no videos"):
        obtain(str(tmp_path / "data"), tmp_path / "scratch", names, archives_inside=False)


def test_a_source_that_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(UserError, match="gone' does not exist"):
        obtain(str(tmp_path / "gone"), tmp_path / "scratch", names)


def test_mirrors_are_tried_in_order_and_each_failure_is_reported(tmp_path, monkeypatch, capsys):
    archive(tmp_path / "good.zip", "a.avi")
    archive(tmp_path / "other.zip", "b.txt")
    (tmp_path / "page.zip").write_text("<html>")

    def download(repo: str, revision: str, name: str, *_: object) -> Path:
        if not (tmp_path / name).exists():
            raise UserError("404")
        return tmp_path / name

    monkeypatch.setattr(sources, "download", download)
    tried = [hub("gone.zip"), hub("page.zip"), hub("other.zip"), hub("good.zip"), {"path": "never reached"}]
    source = mirrors(tmp_path / "m.yaml", {"path": str(tmp_path / "gone")}, *tried)
    assert obtain(source, tmp_path / "scratch", names) == ["a.avi"]
    lines = capsys.readouterr().out.splitlines()
    reasons = ["does not exist", "404", "not a ZIP", "no videos"]
    assert len(lines) == 4 and all(reason in line for reason, line in zip(reasons, lines, strict=True))


def test_a_local_mirror_is_found_from_the_temporary_workspace_of_an_experiment(tmp_path, monkeypatch):
    (tmp_path / "project" / "downloads").mkdir(parents=True)
    archive(tmp_path / "project" / "downloads" / "x.zip", "a.avi")
    (tmp_path / "workspace").mkdir()
    monkeypatch.chdir(tmp_path / "workspace")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    source = mirrors(tmp_path / "m.yaml", {"path": "downloads/x.zip"})
    assert obtain(source, tmp_path / "scratch", names) == ["a.avi"]


def test_when_no_mirror_can_be_used_one_line_lists_them_and_where_to_put_a_copy(tmp_path, monkeypatch):
    def download(*_: object) -> Path:
        raise UserError("404")

    monkeypatch.setattr(sources, "download", download)
    source = mirrors(tmp_path / "m.yaml", {"path": "downloads/x"}, hub("gone.zip"))
    with pytest.raises(UserError, match="put a copy at downloads/x, .*downloads/x: .*a/b: 404") as caught:
        obtain(source, tmp_path / "scratch", names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("videos: []", "videos"),
        ("pictures: []", "pictures|videos"),
        ("videos: [{}]", "videos.0: a source has exactly one of"),
        ("videos: [{url: 'http://x/y.zip'}]", "videos.0.url"),
        ("videos: [{huggingface: {repo: a/b, revision: main, files: [{name: x}]}}]", "revision"),
        ("videos: [", "not valid YAML"),
    ],
)
def test_a_bad_mirror_list_is_one_line_that_names_the_key(tmp_path, text, says):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"m.yaml: .*({says})") as caught:
        read_mirrors(tmp_path / "m.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hmdb51", "ucf101"])
def test_the_mirror_lists_of_the_profiles_are_valid_and_begin_with_a_local_copy(name):
    found = read_mirrors(ROOT / "profiles" / "mirrors" / f"{name}.yaml")
    assert found.videos[0].path == found.annotations[0].path == f"downloads/{name}"
    assert all(source.huggingface for source in found.videos[1:] + found.annotations[1:])


def test_unpacked_files_are_deleted_after_success_and_kept_after_a_failure(tmp_path):
    source = str(archive(tmp_path / "x.zip", "a.avi"))
    with pytest.raises(KeyError), scratch_folder(tmp_path / "s", source) as folder:
        unpacked = obtain(source, folder, lambda roots: roots)[0]
        raise KeyError
    with scratch_folder(tmp_path / "s", source) as folder:
        assert (unpacked / "a.avi").exists()
    assert [path.suffix for path in (tmp_path / "s").iterdir()] == [".lock"]


def _fetch(tmp_path: Path, source: str, fetched: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Obtain the videos of a mirror list; `fetched` gets the files that are not in the download folder yet."""

    def download(repo: str, revision: str, name: str, folder: Path, *_: object) -> Path:
        if not (folder / name).exists():
            fetched.append(name)
            folder.mkdir(parents=True, exist_ok=True)
            archive(folder / name, f"{name}.avi")
        return folder / name

    monkeypatch.setattr(sources, "download", download)
    with scratch_folder(tmp_path / "s", source) as folder:
        return obtain(source, folder, names)


def test_what_was_fetched_stays_until_another_source_is_fetched(tmp_path, monkeypatch):
    one, other = mirrors(tmp_path / "1.yaml", hub("1.zip")), mirrors(tmp_path / "2.yaml", hub("2.zip"))
    local = str(archive(tmp_path / "local.zip", "local.avi"))
    fetched: list[str] = []
    for source in (one, one, local, one):
        _fetch(tmp_path, source, fetched, monkeypatch)
    assert fetched == ["1.zip"]
    assert _fetch(tmp_path, other, fetched, monkeypatch) == ["2.zip.avi"]
    assert [path.name for path in (tmp_path / "s").rglob("*.zip")] == ["2.zip"], "one source's files are kept"
    _fetch(tmp_path, one, fetched, monkeypatch)
    assert fetched == ["1.zip", "2.zip", "1.zip"]


def test_downloads_that_another_process_is_making_stay(tmp_path, monkeypatch):
    with scratch_folder(tmp_path / "s", "another") as folder:
        (folder / "downloads").mkdir()
        _fetch(tmp_path, mirrors(tmp_path / "1.yaml", hub("1.zip")), [], monkeypatch)
        assert (folder / "downloads").is_dir()


def test_a_damaged_download_is_deleted_and_one_that_lacks_a_program_is_kept(tmp_path, monkeypatch):
    source = mirrors(tmp_path / "m.yaml", hub("x.zip"))
    for content, is_kept in ((b"<html>", False), (b"Rar!\x1a\x07\x01\x00", True)):
        (tmp_path / "x.zip").write_bytes(content)
        monkeypatch.setattr(sources, "download", lambda *_: tmp_path / "x.zip")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError):
            obtain(source, tmp_path / "scratch", names)
        assert (tmp_path / "x.zip").exists() == is_kept
