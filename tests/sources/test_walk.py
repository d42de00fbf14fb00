from __future__ import annotations

import os
from pathlib import Path

import pytest

from twostream.core.digests import Digests
from twostream.errors import UserError
from twostream.sources import walk
from twostream.sources.walk import copy_file, keep_or_copy, new_folder, safe_name, walk_files


def test_a_copy_is_a_file_of_its_own(tmp_path):
    source = tmp_path / "users.avi"
    source.write_bytes(b"video")
    source.chmod(0o444)
    (tmp_path / "link.avi").symlink_to(source)
    for name in ("users.avi", "link.avi"):
        copy_file(tmp_path / name, tmp_path / f"copy of {name}")
        copy = tmp_path / f"copy of {name}"
        assert copy.read_bytes() == b"video" and not copy.is_symlink()
        assert copy.stat().st_ino != source.stat().st_ino and source.stat().st_nlink == 1
        assert copy.stat().st_mode & 0o200


def test_a_disposable_file_may_be_linked_and_where_it_cannot_is_copied(tmp_path, monkeypatch):
    source = tmp_path / "unpacked.avi"
    source.write_bytes(b"video")
    copy_file(source, tmp_path / "one.avi", disposable=True)

    def refuse(*args: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(walk.os, "link", refuse)
    copy_file(source, tmp_path / "two.avi", disposable=True)
    assert (tmp_path / "one.avi").read_bytes() == (tmp_path / "two.avi").read_bytes() == b"video"


def test_a_file_stays_if_it_has_the_content_of_the_source(tmp_path):
    digests = Digests(tmp_path, "download")
    before = tmp_path / "before.avi"
    before.write_bytes(b"video")
    for name, content in {"same.avi": b"video", "other.avi": b"audio", "longer.avi": b"longer"}.items():
        (tmp_path / name).write_bytes(content)
        keep_or_copy(tmp_path / name, tmp_path / f"new {name}", before, digests)
        assert (tmp_path / f"new {name}").read_bytes() == content
        assert (tmp_path / f"new {name}").samefile(before) == (name == "same.avi")
    (tmp_path / "link.avi").symlink_to(before)
    keep_or_copy(tmp_path / "same.avi", tmp_path / "copy.avi", tmp_path / "link.avi", digests)
    keep_or_copy(tmp_path / "same.avi", tmp_path / "first.avi", tmp_path / "none.avi", digests)
    assert not (tmp_path / "copy.avi").is_symlink() and not (tmp_path / "copy.avi").samefile(before)
    with pytest.raises(UserError, match="'.*gone.avi': cannot be copied"):
        keep_or_copy(tmp_path / "gone.avi", tmp_path / "x.avi", before, digests)


def test_a_copy_that_fails_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="'.*gone.avi': cannot be copied"):
        copy_file(tmp_path / "gone.avi", tmp_path / "x.avi")
    assert not list(tmp_path.iterdir())


def test_a_reflink_is_taken_where_the_file_system_gives_one(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "reflink", lambda source, target: target.write_bytes(b"cloned") > 0)
    (tmp_path / "a").write_bytes(b"video")
    copy_file(tmp_path / "a", tmp_path / "b", disposable=True)
    assert (tmp_path / "b").read_bytes() == b"cloned"


def test_a_folder_takes_its_name_when_it_is_full(tmp_path):
    target = tmp_path / "videos"
    with new_folder(target) as part:
        (part / "a").write_text("1")
        assert not target.exists()
    assert [p.name for p in tmp_path.rglob("*")] == ["videos", "a"]
    with pytest.raises(UserError, match="not empty"), new_folder(target):
        pass
    with pytest.raises(KeyboardInterrupt), new_folder(target, replaces=True):
        raise KeyboardInterrupt
    assert (target / "a").read_text() == "1"
    with new_folder(target, replaces=True) as part:
        (part / "b").write_text("2")
    assert [p.name for p in tmp_path.rglob("*")] == ["videos", "b"]
    (target / "b").unlink()
    target.rmdir()
    with pytest.raises(KeyboardInterrupt), new_folder(target) as part:
        (part / "a").write_text("1")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_walking_follows_links_but_not_in_circles_and_leaves_hidden_files(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for name in ("root/b/x.avi", "root/.hidden/x.avi", "root/__MACOSX/x.avi", "root/b/._x.avi", "outside/y.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (root / "a").symlink_to(outside)
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "gone.avi").symlink_to("nowhere")
    assert [p.as_posix() for p in walk_files(root)] == ["a/y.avi", "b/gone.avi", "b/x.avi"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ('it\'s [1] "a" & b;.avi', 'it\'s [1] "a" & b;.avi'),
        ("new\nline ü 走.avi", "new\nline ü 走.avi"),
        (os.fsdecode(b"caf\xe9.avi"), "caf\\xe9.avi"),
        ("car\rriage\x07.avi", "car\\x0driage\\x07.avi"),
    ],
)
def test_names_are_kept_but_for_what_no_table_can_hold(name, expected):
    assert safe_name(name) == expected


def test_long_names_are_shortened_and_stay_different():
    one, two = safe_name("ü" * 120 + "1.avi"), safe_name("ü" * 120 + "2.avi")
    assert one != two
    assert all(len(name.encode()) <= 200 and Path(name).suffix == ".avi" for name in (one, two))
