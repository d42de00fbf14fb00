import os

import pytest

from twostream.core.files import atomic_path, md5_of, sha256_of


def test_a_file_takes_its_place_only_when_it_is_complete(tmp_path):
    target = tmp_path / "folder" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["a.txt"]


def test_an_error_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_longest_names_that_clips_have_can_be_written(tmp_path):
    target = tmp_path / ("x" * 200 + ".zip")
    with atomic_path(target) as temporary:
        temporary.touch()
    assert target.is_file()


def test_digests_are_those_of_the_standard(tmp_path):
    (tmp_path / "abc").write_text("abc")  # RFC 1321 and FIPS 180-2, their examples for "abc"
    assert md5_of(tmp_path / "abc") == "900150983cd24fb0d6963f7d28e17f72"
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
