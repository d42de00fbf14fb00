from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from twostream.errors import UserError
from twostream.sources import archives
from twostream.sources.archives import is_archive, unpack


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zip_bytes(members: dict[str, bytes], tmp_path: Path) -> bytes:
    return make_zip(tmp_path / "inner", members).read_bytes()


def refusal(archive: Path, target: Path) -> str:
    with pytest.raises(UserError) as caught:
        unpack(archive, target)
    assert not target.exists(), "a refused archive leaves nothing that looks unpacked"
    assert not target.with_name(target.name + ".part").exists()
    message = str(caught.value)
    assert "\n" not in message and archive.name in message
    return message


ODD = {
    "a/plain.avi": b"1",
    "b/[x] (y) & ;'\" z.avi": b"22",
    "b/new\nline.avi": b"3",
    "b/ünï.avi": b"",
    "deep/er/c.avi": b"4" * 3000000,
}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_of_any_compression_gives_its_files_back(tmp_path, mode):
    unpack(make_tar(tmp_path / "x.bin", ODD, mode), tmp_path / "out")
    assert files(tmp_path / "out") == ODD


def test_a_zip_gives_its_files_back_whatever_it_is_called(tmp_path):
    unpack(make_zip(tmp_path / "download", ODD), tmp_path / "out")
    assert files(tmp_path / "out") == ODD


def test_backslashes_of_a_windows_zip_are_folders(tmp_path):
    unpack(make_zip(tmp_path / "x.zip", {"fight\\a.avi": b"1"}), tmp_path / "out")
    assert files(tmp_path / "out") == {"fight/a.avi": b"1"}


def test_archives_inside_archives_become_folders_of_their_names(tmp_path):
    wave = zip_bytes({"wave/w.avi": b"w"}, tmp_path)
    run = make_tar(tmp_path / "r", {"r.avi": b"r"}, "w:gz").read_bytes()
    unpack(make_zip(tmp_path / "all.zip", {"hmdb/wave.zip": wave, "hmdb/run.tar.gz": run}), tmp_path / "out")
    assert files(tmp_path / "out") == {"hmdb/wave/w.avi": b"w", "hmdb/run/r.avi": b"r"}


def test_an_inner_archive_beside_a_folder_of_its_name_loses_neither(tmp_path):
    inner = zip_bytes({"w.avi": b"inner"}, tmp_path)
    unpack(make_zip(tmp_path / "all.zip", {"wave.zip": inner, "wave/w.avi": b"outer"}), tmp_path / "out")
    assert sorted(files(tmp_path / "out").values()) == [b"inner", b"outer"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_member_outside_the_folder_is_refused(tmp_path, make, name):
    archive = make(tmp_path / "x.archive", {"good.avi": b"1", name: b"evil"})
    message = refusal(archive, tmp_path / "in" / "out")
    assert "outside" in message and "evil" in message
    assert not list(tmp_path.rglob("*evil*"))


def test_links_and_devices_in_a_tar_are_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo("odd")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        assert "'odd' is a link, a device or a sparse file" in refusal(path, tmp_path / "out")


def test_a_sparse_file_in_a_tar_is_refused(tmp_path):
    """Its size on the disk is not limited by the bytes of the archive."""
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("odd")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**40)}
        archive.addfile(info)
    assert "'odd' is a link, a device or a sparse file" in refusal(tmp_path / "x.tar", tmp_path / "out")


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("odd")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "'odd' is a link, a device or a sparse file" in refusal(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("make", [make_zip, lambda path, members: make_tar(path, members, "w:gz")])
def test_a_bomb_is_stopped_at_the_limit(tmp_path, monkeypatch, make):
    monkeypatch.setattr(archives, "FREE_EXPANSION_BYTES", 100_000)
    archive = make(tmp_path / "bomb", {"zeros": bytes(20_000_000)})
    assert archive.stat().st_size * 100 + 100_000 < 20_000_000
    assert "unpacks to more than" in refusal(archive, tmp_path / "out")


def test_bombs_inside_share_one_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_EXPANSION_BYTES", 20_000_000)
    inner = zip_bytes({"zeros": bytes(15_000_000)}, tmp_path)
    assert "unpacks to more than" in refusal(
        make_zip(tmp_path / "x.zip", {f"{i}.zip": inner for i in range(4)}), tmp_path / "out"
    )


def test_the_free_disk_is_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 0, 1000))
    assert "free disk" in refusal(make_zip(tmp_path / "x.zip", {"a": os.urandom(1001)}), tmp_path / "out")


def test_nesting_and_number_of_files_are_limited(tmp_path, monkeypatch):
    inner = {"end.avi": b"1"}
    for _ in range(archives.MAX_DEPTH):
        inner = {"next.zip": zip_bytes(inner, tmp_path)}
    assert "levels deep" in refusal(make_zip(tmp_path / "deep.zip", inner), tmp_path / "out")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    assert "more than 3 files" in refusal(make_zip(tmp_path / "x.zip", dict.fromkeys("abcd", b"")), tmp_path / "out")


@pytest.mark.parametrize("make", [make_zip, make_tar, lambda path, members: make_tar(path, members, "w:gz")])
def test_an_archive_cut_anywhere_is_damaged_and_not_merely_short(tmp_path, make):
    whole = make(tmp_path / "x.bin", {name: os.urandom(2048) for name in "abcdef"}).read_bytes()
    used = len(whole.rstrip(b"\0")) if make is make_tar else len(whole)
    for cut in (used // 7, used // 3 // 512 * 512, used // 2, used - 3):
        (tmp_path / "x.bin").write_bytes(whole[:cut])
        refusal(tmp_path / "x.bin", tmp_path / "out")


def test_a_tar_cut_between_two_members_is_noticed(tmp_path):
    whole = make_tar(tmp_path / "x.tar", {"a": b"1", "b": b"2"}).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:1024])  # header and block of `a`, and nothing more
    assert "end mark" in refusal(tmp_path / "x.tar", tmp_path / "out")


def test_a_damaged_member_is_named(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"fine": b"1", "rotten.avi": os.urandom(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(b"rotten.avi") + 200] ^= 0xFF
    path.write_bytes(content)
    assert "rotten.avi" in refusal(path, tmp_path / "out")


def test_a_web_page_saved_as_an_archive_is_not_taken_for_one(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"<!DOCTYPE html><html>404</html>")
    assert "<!DOCTYP" in refusal(tmp_path / "x.zip", tmp_path / "out")


def test_a_kill_midway_leaves_nothing_that_looks_complete_and_the_next_run_starts_clean(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "x.zip", {"a": b"1", "b": b"2"})
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "stale").write_bytes(b"half")  # what SIGKILL leaves
    unpack(archive, tmp_path / "out")
    assert files(tmp_path / "out") == {"a": b"1", "b": b"2"}


needs_bsdtar = pytest.mark.skipif(shutil.which("bsdtar") is None, reason="bsdtar is not installed")


def vint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + vint(value >> 7) if value > 0x7F else bytes([value])


def make_rar(path: Path, members: dict[str, bytes]) -> Path:
    """Write a RAR 5 archive of stored files; see "RAR 5.0 archive format" of rarlab.com."""

    def block(body: bytes) -> bytes:
        body = vint(len(body)) + body
        return struct.pack("<I", zlib.crc32(body)) + body

    archive = b"Rar!\x1a\x07\x01\x00" + block(vint(1) + vint(0) + vint(0))
    for name, data in members.items():
        encoded = name.encode()
        head = vint(2) + vint(2) + vint(len(data))  # a file header that is followed by data
        head += vint(4) + vint(len(data)) + vint(0o100644) + struct.pack("<I", zlib.crc32(data))  # its CRC-32 is given
        head += vint(0) + vint(1) + vint(len(encoded)) + encoded  # stored, made on Unix
        archive += block(head) + data
    path.write_bytes(archive + block(vint(5) + vint(0) + vint(0)))
    return path


def make_7z(path: Path, members: dict[str, bytes]) -> Path:
    folder = path.with_name(f"{path.name}-content")
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run(["bsdtar", "--format", "7zip", "-cf", path, "-C", folder, "."], check=True, env=env)
    shutil.rmtree(folder)
    return path


@needs_bsdtar
@pytest.mark.parametrize("make", [make_rar, make_7z])
def test_rar_and_7z_give_their_files_back(tmp_path, make):
    unpack(make(tmp_path / "it's [a] *?\n.bin", ODD), tmp_path / "out")
    assert files(tmp_path / "out") == ODD


@needs_bsdtar
@pytest.mark.parametrize("make", [make_rar, make_7z])
def test_rar_and_7z_inside_a_zip_are_unpacked(tmp_path, make):
    inner = make(tmp_path / "inner", {"wave/w.avi": b"w"}).read_bytes()
    unpack(make_zip(tmp_path / "all.zip", {"wave.rar": inner}), tmp_path / "out")
    assert files(tmp_path / "out") == {"wave/w.avi": b"w"}


@needs_bsdtar
def test_a_member_of_a_rar_outside_the_folder_is_refused(tmp_path):
    archive = make_rar(tmp_path / "x.rar", {"good.avi": b"1", "../evil": b"evil"})
    assert "outside" in refusal(archive, tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("*evil*"))


@needs_bsdtar
def test_a_link_in_a_7z_is_refused(tmp_path):
    (tmp_path / "odd").symlink_to("/etc/passwd")
    subprocess.run(["bsdtar", "--format", "7zip", "-cf", "x.7z", "odd"], cwd=tmp_path, check=True)
    assert "'odd' is a link, a device or a sparse file" in refusal(tmp_path / "x.7z", tmp_path / "out")


@needs_bsdtar
def test_a_bomb_of_7z_is_stopped_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_EXPANSION_BYTES", 100_000)
    archive = make_7z(tmp_path / "bomb", {"zeros": bytes(20_000_000)})
    assert "unpacks to more than" in refusal(archive, tmp_path / "out")


@needs_bsdtar
@pytest.mark.parametrize("make", [make_rar, make_7z])
def test_a_rar_or_7z_cut_anywhere_is_damaged_and_not_merely_short(tmp_path, make):
    whole = make(tmp_path / "x.bin", {name: os.urandom(2048) for name in "abcdef"}).read_bytes()
    for cut in (len(whole) // 7, len(whole) // 2, len(whole) - 100):
        (tmp_path / "x.bin").write_bytes(whole[:cut])
        assert "cannot be unpacked (bsdtar: " in refusal(tmp_path / "x.bin", tmp_path / "out")


def test_without_bsdtar_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install libarchive-tools" in refusal(make_rar(tmp_path / "x.rar", {"a": b"1"}), tmp_path / "out")


def test_archives_are_known_by_their_endings():
    assert is_archive("x.part1.rar") and is_archive("a/X.TAR.GZ") and not is_archive("x.avi") and not is_archive("zip")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_second_file_of_one_name_is_refused(tmp_path, make):
    archive = make(tmp_path / "x.bin", {"a.avi": b"1", "./a.avi": b"2"})
    assert "member './a.avi' is there twice" in refusal(archive, tmp_path / "out")
