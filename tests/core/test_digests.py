from __future__ import annotations

import json
import os

import pytest

from twostream.core import digests as module
from twostream.core.digests import Digests
from twostream.core.files import md5_of, sha256_of


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are read for a SHA-256."""
    names = []

    def sha256_and_note(path):
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(module, "sha256_of", sha256_and_note)
    return names


def _write(path, content, age_s=60):
    path.write_bytes(content)
    time = path.stat().st_mtime - age_s
    os.utime(path, (time, time))
    return path


def test_a_file_is_read_once_until_it_changes(tmp_path, read):
    file = _write(tmp_path / "a.avi", b"one")
    for _ in range(2):
        digests = Digests(tmp_path / "kept", "download")
        assert [digests.sha256(file), digests.sha256(file)] == 2 * [sha256_of(file)]
        assert digests.md5(file) == md5_of(file)
        digests.save()
    assert read == ["a.avi"]
    _write(file, b"two", age_s=30)  # of the same size
    assert Digests(tmp_path / "kept", "download").sha256(file) == sha256_of(file)
    replaced = _write(tmp_path / "b.avi", b"333")
    os.utime(replaced, ns=(0, file.stat().st_mtime_ns))
    os.replace(replaced, file)  # of the same size and time
    assert Digests(tmp_path / "kept", "download").sha256(file) == sha256_of(file)
    assert read == 3 * ["a.avi"]


def test_a_file_that_was_just_written_is_read_again(tmp_path, read):
    file = _write(tmp_path / "a.avi", b"one", age_s=0)
    digests = Digests(tmp_path / "kept", "download")
    digests.sha256(file)
    digests.sha256(file)
    assert len(read) == 2


def test_other_stages_know_a_digest_and_one_that_no_run_asks_for_goes(tmp_path, read):
    kept, files = tmp_path / "kept", [_write(tmp_path / name, name.encode()) for name in "ab"]
    for names in (files, files[:1]):
        digests = Digests(kept, "download")
        for file in names:
            digests.sha256(file)
        digests.save()
    Digests(kept, "probe").sha256(files[0])
    assert read == ["a", "b"]
    Digests(kept, "probe").sha256(files[1])
    assert read == ["a", "b", "b"]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": ', b"\xff"])
def test_damage_to_what_is_kept_costs_only_time(tmp_path, content):
    file = _write(tmp_path / "a.avi", b"one")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "probe.json").write_bytes(content)
    digests = Digests(tmp_path / "kept", "probe")
    assert digests.sha256(file) == sha256_of(file)
    digests.save()
    assert sha256_of(file) in json.loads((tmp_path / "kept" / "probe.json").read_text()).values()
