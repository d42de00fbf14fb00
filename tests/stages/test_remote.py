"""A second machine: clone, `dvc pull`, one more clip. What was pulled is not computed again."""

from __future__ import annotations

import copy
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from helpers import moving_texture, write_video
from miniature import dvc, make_project, run

pytestmark = pytest.mark.slow
STAGES = ("extract_rgb", "extract_flow")


@pytest.fixture(scope="module")
def first(tmp_path_factory, demo_values) -> Path:
    """A project whose six clips are extracted and committed, without a remote."""
    top = tmp_path_factory.mktemp("first")
    for label in ("left", "right"):
        for number in range(3):
            write_video(top / f"clips/{label}/person{number}.avi", moving_texture(6, seed=number))
    values = copy.deepcopy(demo_values)
    values["dataset"].update(name="folder", source=str(top / "clips"), splits=[1])
    values["flow"]["method"] = "dis"
    project = make_project(top / "project", values)
    dvc(project, "repro", *STAGES)
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "extracted")
    return project


@pytest.fixture(params=["folder", "s3"])
def remote(request, tmp_path):
    """The address of a remote, and the settings that DVC needs for it."""
    if request.param == "folder":
        yield str(tmp_path / "remote"), {}
        return
    pytest.importorskip("moto", reason="moto[server] is not installed: pip install 'moto[server]' dvc-s3")
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed: pip install 'moto[server]' dvc-s3")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _create_bucket(f"{address}/videos")
        yield (
            "s3://videos/store",
            {"endpointurl": address, "access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"},
        )
    finally:
        server.kill()
        server.wait()


def _create_bucket(address: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="PUT")).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the S3 server did not start")


def test_one_more_clip_on_another_machine_extracts_one_clip(first, remote, tmp_path):
    address, settings = remote
    project = tmp_path / "project"
    shutil.copytree(first, project, symlinks=True)
    run(project, "dvc", "remote", "add", "-d", "store", address)
    for key, value in settings.items():
        run(project, "dvc", "remote", "modify", "store", key, value)
    assert re.search(r"\d+ files? pushed", run(project, "dvc", "push"))
    assert "Everything is up to date." in run(project, "dvc", "push")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "remote")

    second = tmp_path / "second"
    run(tmp_path, "git", "clone", "-q", str(project), str(second))
    assert "up to date" in run(second, "dvc", "repro", "--dry", "--allow-missing", *STAGES)
    run(second, "dvc", "pull", "-q", "--allow-missing")
    source = Path(yaml.safe_load((second / "params.yaml").read_text())["dataset"]["source"])
    shutil.copytree(source, tmp_path / "clips")
    write_video(tmp_path / "clips/left/person9.avi", moving_texture(6, seed=9))
    values = yaml.safe_load((second / "params.yaml").read_text())
    values["dataset"]["source"] = str(tmp_path / "clips")
    (second / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    output = run(second, "dvc", "repro", *STAGES)
    assert "rgb: 7 clips, 1 extracted, 6 from the cache" in output
    assert "flow: 7 clips, 1 extracted, 6 from the cache" in output
