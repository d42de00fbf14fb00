from __future__ import annotations

import hashlib
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from twostream.errors import UserError
from twostream.sources import obtain, read_mirrors, workshop

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def served(tmp_path):
    """A folder behind an HTTP server; yields (folder, address)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def url(address: str, path: Path) -> dict:
    return {"url": f"{address}/{path.name}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


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


def test_a_source_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="gone' is not there"):
        obtain(str(tmp_path / "gone"), tmp_path / "scratch", names)


def test_mirrors_are_tried_in_order_and_each_failure_is_told(tmp_path, served, capsys):
    folder, address = served
    good, other = archive(folder / "good.zip", "a.avi"), archive(folder / "other.zip", "b.txt")
    (folder / "page.zip").write_text("<html>")
    changed = {**url(address, good), "sha256": "0" * 64}
    source = mirrors(
        tmp_path / "m.yaml",
        {"path": str(tmp_path / "gone")},
        changed,
        url(address, folder / "page.zip"),
        url(address, other),
        url(address, good),
        {"path": "never reached"},
    )
    assert obtain(source, tmp_path / "scratch", names) == ["a.avi"]
    said = capsys.readouterr().out.splitlines()
    assert [next(w for w in ("not there", "SHA-256", "not a ZIP", "no videos") if w in line) for line in said] == [
        "not there",
        "SHA-256",
        "not a ZIP",
        "no videos",
    ]


def test_when_no_mirror_serves_one_line_lists_them_and_where_to_put_a_copy(tmp_path, served):
    _, address = served
    source = mirrors(tmp_path / "m.yaml", {"path": "downloads/x"}, {"url": f"{address}/gone.zip", "sha256": "0" * 64})
    with pytest.raises(UserError, match="put a copy at downloads/x, .*downloads/x: .*gone.zip: .*404") as caught:
        obtain(source, tmp_path / "scratch", names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("videos: []", "videos"),
        ("pictures: []", "pictures|videos"),
        ("videos: [{path: a, url: 'http://x'}]", "exactly one of"),
        ("videos: [{url: 'http://x/y.zip'}]", "needs its sha256"),
        ("videos: [{url: 'file:///etc/passwd', sha256: " + "0" * 64 + "}]", "videos.0.url"),
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


def test_scratch_is_emptied_after_success_and_kept_after_a_failure(tmp_path):
    with pytest.raises(KeyError), workshop(tmp_path / "s") as scratch:
        (scratch / "half").touch()
        raise KeyError
    with workshop(tmp_path / "s") as scratch:
        assert (scratch / "half").exists()
    assert not (tmp_path / "s").exists()
