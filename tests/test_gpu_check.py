import json
import subprocess
import sys
from importlib.metadata import version

import cv2
import gpu_check
import numpy as np
import pytest
from helpers import ROOT, moving_texture, write_video

from twostream.errors import UserError


def _report(capsys, *arguments):
    gpu_check.main(["--report", *arguments])
    return capsys.readouterr().out


def test_the_document_is_what_the_command_writes_from_the_results(capsys):
    assert (ROOT / "docs/gpu.md").read_text() == _report(capsys)


def test_without_results_everything_is_said_to_be_unmeasured(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "none.jsonl")
    text = _report(capsys, str(tmp_path / "none.jsonl"))
    assert "**Nothing has been measured on a GPU yet.**" in text
    assert text.count("Not measured yet.") == text.count("\n## ") == len(gpu_check.PARTS) - 1


def test_results_become_tables_with_card_and_date(capsys, tmp_path):
    rows = [
        {"part": "machine", "card": "NVIDIA H100", "date": "2030-01-02", "cores": 16, "copies TB/s": 2.98765},
        {"part": "solver", "preset": "fast", "pairs/s": 12345.6},
        {"part": "solver", "preset": "accurate", "pairs/s": 2.5, "note": True},
        {"part": "same_bytes", "error": "out of memory"},
    ]
    file = tmp_path / "gpu.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = _report(capsys, str(file))
    assert "Measured on NVIDIA H100 on 2030-01-02 (cores 16, copies TB/s 2.988)." in text
    assert "| preset | pairs/s | note |\n| --- | --- | --- |\n| fast | 12346 |  |\n| accurate | 2.5 | yes |\n" in text
    assert "| error |\n| --- |\n| out of memory |\n" in text
    assert text.count("Not measured yet.") == len(gpu_check.PARTS) - 3


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--report", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--dry", "--data", "nowhere"], "--prepare nowhere"),
        (["turbo"], "no such part: turbo"),
        (["--prepare", "somewhere"], "--pairs"),
    ],
)
def test_what_is_missing_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(arguments)
    assert stop.value.code == 2 and words in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_machine_without_a_gpu_is_one_line(monkeypatch, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    monkeypatch.setattr(gpu_check, "has_gpu", lambda: False)
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(["--data", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "finds no GPU" in line and "--dry" in line


def test_parts_have_processes_and_limits_of_their_own(monkeypatch, tmp_path, capsys):
    def part(command, timeout):
        if command[2] == "kernels":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 1 if command[2] == "solver" else 0)

    (tmp_path / "videos").mkdir()
    monkeypatch.setattr(gpu_check, "has_gpu", lambda: True)
    monkeypatch.setattr(subprocess, "run", part)
    results = tmp_path / "gpu.jsonl"
    with pytest.raises(SystemExit):
        gpu_check.main(["--data", str(tmp_path), "--results", str(results)])
    assert "2 parts failed: kernels, solver; see" in capsys.readouterr().err
    assert json.loads(results.read_text()) == {"part": "kernels", "error": "not finished after 90 s"}


def test_packages_are_fetched_in_the_versions_at_hand(monkeypatch, tmp_path):
    commands = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command) or done)
    gpu_check.fetch_packages(tmp_path, "3.12")
    ((*_, last),) = commands
    assert last == f"{gpu_check.PACKAGES[-1]}=={version(gpu_check.PACKAGES[-1])}"
    assert {"--no-deps", "--python-version=3.12", f"av=={version('av')}"} <= set(commands[0])
    done.returncode, done.stderr = 1, "warning\nERROR: No matching distribution found for av\n"
    with pytest.raises(UserError, match=r"^pip download failed: ERROR: No matching distribution found for av$"):
        gpu_check.fetch_packages(tmp_path, "3.12")


def test_videos_are_copied_class_by_class_up_to_a_size(tmp_path):
    for name in ("a/1", "a/2", "a/3", "b [1]/1"):
        path = tmp_path / "in" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
    gpu_check.copy_videos(tmp_path / "in", tmp_path / "out", 300)
    copied = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.avi"))
    assert copied == ["a/1.avi", "a/2.avi", "b [1]/1.avi"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no videos"):
        gpu_check.copy_videos(tmp_path / "empty", tmp_path / "again", 1000)


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(monkeypatch, tmp_path, capsys):
    (tmp_path / "pairs/one").mkdir(parents=True)
    for name, frame in zip(("frame1.png", "frame2.png"), moving_texture(2, 64, 80), strict=True):
        cv2.imwrite(str(tmp_path / "pairs/one" / name), frame)
    flow = np.zeros((64, 80, 2), np.float32)
    flow[..., 0] = 2
    cv2.writeOpticalFlow(str(tmp_path / "pairs/one/flow.flo"), flow)
    for name in ("a/1.avi", "a/2.avi", "b [1]/1.avi", "b [1]/2.avi"):
        write_video(tmp_path / "videos" / name, moving_texture(18, 48, 64))
    monkeypatch.setattr(gpu_check, "fetch_packages", lambda *_: None)
    monkeypatch.setattr(gpu_check, "WIDTH", 40)
    monkeypatch.setattr(gpu_check, "HEIGHT", 32)
    data = tmp_path / "data"
    gpu_check.main(["--prepare", str(data), "--pairs", str(tmp_path / "pairs"), "--videos", str(tmp_path / "videos")])
    results = tmp_path / "gpu.jsonl"
    command = [sys.executable, "benchmarks/gpu_check.py", "--dry", "--data", str(data), "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert {row["part"] for row in rows} == set(gpu_check.PARTS)
    assert all(row["same bytes"] for row in rows if row["part"] == "same_bytes")
    (kernels,) = (row for row in rows if row["part"] == "kernels")
    assert kernels["99th percentile"] < 0.002 and kernels["codes as on the CPU"]
    capsys.readouterr()
    assert "Not measured yet." not in _report(capsys, str(results))
