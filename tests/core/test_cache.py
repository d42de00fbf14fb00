import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from twostream.core.cache import FileCache, RecordCache, code_digest, key_of, process_space
from twostream.core.files import md5_of


def _cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache", tmp_path / "objects")


def _commit(tmp_path: Path, file: Path) -> None:
    """Store a file under its MD5, as DVC does with an output."""
    digest = md5_of(file)
    stored = tmp_path / "objects" / digest[:2] / digest[2:]
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(file.read_bytes())


def test_a_file_is_built_once(tmp_path):
    cache, key, builds = _cache(tmp_path), key_of(a=1), []

    def build(path):
        builds.append(1)
        path.write_text("content")

    assert not cache.has(key)
    assert cache.make(key, tmp_path / "out" / "x", build) is True
    assert cache.has(key)
    (tmp_path / "out" / "x").unlink()
    assert cache.make(key, tmp_path / "out" / "x", build) is False
    assert (tmp_path / "out" / "x").read_text() == "content"
    assert len(builds) == 1


def test_a_key_depends_on_the_values_and_not_on_their_order():
    assert key_of(a=1, b=2) == key_of(b=2, a=1)
    assert key_of(a=1, b=2) != key_of(a=1, b=3)


def test_a_changed_file_is_never_served(tmp_path):
    cache, key = _cache(tmp_path), key_of(a=1)
    cache.make(key, tmp_path / "x", lambda path: path.write_text("content"))
    (pending,) = (path for path in (tmp_path / "cache" / "pending").rglob("*") if path.is_file())
    os.chmod(pending, 0o644)
    pending.write_text("vandal!")
    assert not cache.serve(key, tmp_path / "y")
    assert cache.make(key, tmp_path / "y", lambda path: path.write_text("content")) is True
    assert (tmp_path / "y").read_text() == "content"


def test_a_wrong_digest_from_memory_deletes_nothing(tmp_path):
    cache, key = _cache(tmp_path), key_of(a=1)
    cache.make(key, tmp_path / "x", lambda path: path.write_text("content"))
    (tmp_path / "y").write_text("other")
    assert cache.serve(key, tmp_path / "y", lambda path: "wrong")
    assert (tmp_path / "y").read_text() == "content"


def test_a_file_that_dvc_has_committed_is_not_stored_twice(tmp_path):
    cache, key = _cache(tmp_path), key_of(a=1)
    cache.make(key, tmp_path / "x", lambda path: path.write_text("content"))
    _commit(tmp_path, tmp_path / "x")
    cache.sweep()
    assert not [p for p in (tmp_path / "cache" / "pending").rglob("*") if p.is_file()]
    (tmp_path / "x").unlink()
    assert cache.serve(key, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "content"


def test_a_file_that_dvc_has_collected_as_garbage_is_built_again(tmp_path):
    cache, key = _cache(tmp_path), key_of(a=1)
    cache.make(key, tmp_path / "x", lambda path: path.write_text("content"))
    _commit(tmp_path, tmp_path / "x")
    cache.sweep()
    for stored in (tmp_path / "objects").rglob("*"):
        if stored.is_file():
            stored.unlink()
    assert cache.make(key, tmp_path / "y", lambda path: path.write_text("content")) is True


def test_a_killed_build_leaves_no_incomplete_file(tmp_path):
    cache, key = _cache(tmp_path), key_of(a=1)

    def dies(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.make(key, tmp_path / "x", dies)
    assert not (tmp_path / "x").exists()
    assert not cache.serve(key, tmp_path / "x")


def test_sweep_removes_what_nobody_builds_any_more(tmp_path):
    cache, folder = _cache(tmp_path), tmp_path / "cache/building"
    folder.mkdir(parents=True)
    here, elsewhere = process_space(), "0123456789ab"
    names = {
        "alive": f"key.{here}.{os.getpid()}.0",
        "dead": f"key.{here}.999999999.0",
        "elsewhere": f"key.{elsewhere}.999999999.0",
        "elsewhere and old": f"key.{elsewhere}.{os.getpid()}.0",
    }
    for name in names.values():
        (folder / name).write_text("half")
    yesterday = time.time() - 25 * 3600
    os.utime(folder / names["elsewhere and old"], (yesterday, yesterday))
    cache.sweep()
    assert {path.name for path in folder.iterdir()} == {names["alive"], names["elsewhere"]}


def test_a_file_that_is_swept_while_it_is_served_is_built(tmp_path, monkeypatch):
    cache, key = _cache(tmp_path), key_of(a=1)
    cache.make(key, tmp_path / "x", lambda path: path.write_text("content"))
    digest, copies = cache._copies(key)
    pending = list(copies)
    _commit(tmp_path, tmp_path / "x")
    cache.sweep()
    monkeypatch.setattr(cache, "_copies", lambda key: (digest, iter(pending)))
    assert cache.make(key, tmp_path / "y", lambda path: path.write_text("content")) is True


WORKER = """
import hashlib, os, random, sys, time
from pathlib import Path
from twostream.core.cache import FileCache, key_of
root, seed = Path(sys.argv[1]), int(sys.argv[2])
order = list(range(20))
random.Random(seed).shuffle(order)
cache = FileCache(root / "cache", root / "objects")
cache.sweep()
def build(number):
    def write(path):
        with open(path, "wb") as file:  # slowly, so that others build the same file meanwhile
            for part in range(20):
                file.write(hashlib.sha256(f"{number} {part}".encode()).digest() * 64)
                file.flush()
                time.sleep(0.0005)
    return write
for number in order:
    cache.make(key_of(number=number), root / f"out{seed}" / str(number), build(number))
"""


@pytest.mark.slow
def test_two_containers_on_one_folder_end_with_sound_files_whatever_is_killed(tmp_path):
    """Both have the same process IDs, as separate PID namespaces do."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("PID namespaces need more rights than this process has")
    rng = np.random.default_rng(0)

    def start(seed):
        return subprocess.Popen([*unshare, sys.executable, "-c", WORKER, str(tmp_path), str(seed)])

    for _ in range(4):
        for process in [start(0), start(1)]:
            time.sleep(rng.uniform(0.2, 0.6))
            process.kill()
            process.wait()
    assert [process.wait() for process in [start(0), start(1), start(2)]] == [0, 0, 0]
    for seed in range(3):
        for number in range(20):
            parts = [hashlib.sha256(f"{number} {part}".encode()).digest() * 64 for part in range(20)]
            assert (tmp_path / f"out{seed}/{number}").read_bytes() == b"".join(parts)


def test_code_digest_ignores_comments_and_docstrings_but_no_change_of_behaviour(tmp_path):
    def digest(text):
        (tmp_path / "code.py").write_text(text)
        return code_digest(tmp_path / "code.py")

    base = digest('"""Doc."""\n\ndef f(x):\n    """Adds."""\n    return x + 1\n')
    assert base == digest('"""Other."""\ndef f(x):  # fast\n    """Adds one."""\n    return (x + 1)\n')
    assert base != digest('"""Doc."""\n\ndef f(x):\n    """Adds."""\n    return x + 2\n')


def test_code_digest_ignores_imports_annotations_and_error_messages(tmp_path):
    def digest(text):
        (tmp_path / "code.py").write_text(text)
        return code_digest(tmp_path / "code.py")

    base = digest("import a\nfrom b import c\n\ndef f(x: int) -> int:\n    raise ValueError('no')\n")
    assert base == digest("from d.b import c\n\ndef f(x):\n    raise ValueError(f'{x}: never')\n")
    assert base != digest("def f(x):\n    raise KeyError('no')\n")
    assert digest("x: int = 1") != digest("x: int = 2")


def test_records_are_found_by_the_next_process_and_a_line_cut_short_costs_only_itself(tmp_path):
    path = tmp_path / "cache" / "records.jsonl"
    first, other = RecordCache(path), RecordCache(path)
    first.add("a", {"frames": 1, "reason": "größer\n"})
    other.add("b", 0.1)
    with open(path, "a") as file:
        file.write('["c", {"fra')
    RecordCache(path).add("d", None)
    again = RecordCache(path)
    assert [key for key in "abcd" if key in again] == ["a", "b", "d"]
    assert again["a"] == {"frames": 1, "reason": "größer\n"} and again["b"] == 0.1 and again["d"] is None


def test_a_record_whose_bytes_have_changed_is_not_used(tmp_path):
    path = tmp_path / "records.jsonl"
    records = RecordCache(path)
    for number in range(50):
        records.add(f"key{number}", {"frames": number, "logits": "00ff" * 8})
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        found = RecordCache(path)
        for number in range(50):
            assert f"key{number}" not in found or found[f"key{number}"] == {"frames": number, "logits": "00ff" * 8}


def test_records_without_a_checksum_are_of_an_earlier_version(tmp_path):
    (tmp_path / "records.jsonl").write_text('["a", 1]\n7\n[["a"], 2, 3]\n')
    assert RecordCache(tmp_path / "records.jsonl")["a"] == 1


@pytest.mark.parametrize(
    "entry", ["", "[1]", "7", '{"md5": 7}', '{"md5": "../../etc/passwd"}', '{"md5": "\\u0000"}', "\udcff", "[" * 9999]
)
def test_a_damaged_entry_is_no_entry(tmp_path, entry):
    cache, key = _cache(tmp_path), key_of(a=1)
    cache.make(key, tmp_path / "x", lambda path: path.write_text("content"))
    (file,) = (path for path in (tmp_path / "cache" / "index").rglob("*") if path.is_file())
    file.write_bytes(entry.encode("utf-8", "surrogateescape"))
    assert not cache.has(key)
    assert cache.make(key, tmp_path / "y", lambda path: path.write_text("content")) is True


def test_a_file_is_built_again_where_the_cache_is_deleted_meanwhile(tmp_path):
    cache, builds = _cache(tmp_path), []

    def build(path):
        path.write_text("content")
        builds.append(path)
        if len(builds) < 3:
            shutil.rmtree(tmp_path / "cache")

    assert cache.make("key", tmp_path / "x", build) is True
    assert (tmp_path / "x").read_text() == "content" and len(builds) == 3


def test_a_changed_object_of_dvc_is_removed_since_dvc_would_restore_it(tmp_path):
    cache, key = _cache(tmp_path), key_of(a=1)
    cache.make(key, tmp_path / "x", lambda path: path.write_text("content"))
    _commit(tmp_path, tmp_path / "x")
    cache.sweep()
    (stored,) = (path for path in (tmp_path / "objects").rglob("*") if path.is_file())
    stored.write_text("vandal!")
    assert not cache.serve(key, tmp_path / "y")
    assert not stored.exists()


def test_a_changed_object_of_dvc_is_removed_also_where_the_cache_has_forgotten_the_file(tmp_path):
    cache = _cache(tmp_path)
    cache.make("key", tmp_path / "x", lambda path: path.write_text("content"))
    _commit(tmp_path, tmp_path / "x")
    (stored,) = (path for path in (tmp_path / "objects").rglob("*") if path.is_file())
    cache.make("other", tmp_path / "y", lambda path: path.write_text("content"))
    assert stored.exists()
    stored.write_text("vandal!")
    cache.make("another", tmp_path / "y", lambda path: path.write_text("content"))
    assert not stored.exists()
