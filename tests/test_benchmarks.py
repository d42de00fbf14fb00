import importlib
import importlib.util
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from groundtruth import Pair, end_point_error, read_pairs, resized
from helpers import moving_texture, write_video

from twostream.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The module of `benchmarks/flow.py`, loaded as a script loads its neighbours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("flow")


def _texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def _write_sequence(folder, flow, first=None, second=None):
    """Header and samples by hand: 202021.25, width, height, then x and y of every pixel."""
    folder.mkdir(parents=True)
    height, width = flow.shape[:2]
    first = _texture(height, width) if first is None else first
    cv2.imwrite(str(folder / "frame1.png"), first)
    cv2.imwrite(str(folder / "frame2.png"), first if second is None else second)
    header = struct.pack("<fii", 202021.25, width, height)
    (folder / "flow.flo").write_bytes(header + struct.pack(f"<{flow.size}f", *flow.ravel()))


def _shifted_sequence(folder, seed):
    """A texture that moves 2 pixels to the right and 1 down; nothing is known in two corners."""
    wide = _texture(60, 80, seed)
    flow = np.empty((48, 64, 2), np.float32)
    flow[:] = 2, 1
    flow[:5, :5], flow[-5:, -5:] = 1e9, np.nan
    _write_sequence(folder, flow, wide[6:54, 8:72], wide[5:53, 6:70])


def _pair(truth, known=None):
    known = np.ones(truth.shape[:2], bool) if known is None else known
    image = np.zeros(truth.shape[:2], np.uint8)
    return Pair("made", image, image, np.float32(truth), known)


def test_error_is_the_mean_length_of_what_flow_is_off_by():
    truth = np.zeros((2, 2, 2))
    truth[..., 0] = 1
    flow = np.float32([[[1, 0], [4, 4]], [[1, 2], [1, 0]]])  # off by 0, (3, 4), (0, 2) and 0
    assert end_point_error(flow, _pair(truth)) == pytest.approx((0 + 5 + 2 + 0) / 4)


def test_pixels_of_unknown_flow_do_not_count():
    known = np.array([[True, False], [True, True]])
    flow = np.float32([[[3, 4], [900, 900]], [[0, 0], [0, 0]]])
    assert end_point_error(flow, _pair(np.zeros((2, 2, 2)), known)) == pytest.approx(5 / 3)


def test_a_pair_is_read_as_it_was_written(tmp_path):
    _shifted_sequence(tmp_path / "b [1]; c", 0)
    _shifted_sequence(tmp_path / "a", 1)
    (tmp_path / "notes.txt").write_text("no sequence")
    first, second = read_pairs(tmp_path)
    assert (first.name, second.name) == ("a", "b [1]; c")
    assert first.first.dtype == np.uint8 and first.first.shape == (48, 64)
    assert np.array_equal(first.first, _texture(60, 80, 1)[6:54, 8:72])
    assert not first.known[:5, :5].any() and not first.known[-5:, -5:].any()
    assert first.known.sum() == 48 * 64 - 50
    assert (first.truth[first.known] == (2, 1)).all() and np.isfinite(first.truth).all()


@pytest.mark.parametrize("width, height", [(20, 12), (64, 20), (90, 77)])
def test_a_constant_flow_stays_constant_and_scales_with_each_side(width, height):
    truth = np.empty((30, 40, 2))
    truth[:] = 4, -3
    known = np.ones((30, 40), bool)
    known[:10, :20] = False
    small = resized(_pair(np.where(known[..., None], truth, 0), known), width, height)
    assert small.truth.shape == (height, width, 2) and small.first.shape == (height, width)
    expected = (4 * width / 40, -3 * height / 30)
    assert np.allclose(small.truth[small.known], expected, atol=1e-5)
    assert small.known.mean() == pytest.approx(known.mean(), abs=0.05)


def test_resized_flow_is_the_mean_of_the_known_pixels_below():
    truth = np.zeros((2, 4, 2))
    truth[:, :2, 0] = [[1, 2], [3, 0]]
    known = np.array([[True, True, False, False], [True, False, False, True]])
    small = resized(_pair(truth, known), 2, 1)
    assert small.known.tolist() == [[True, False]]  # three of four, and one of four
    assert small.truth[0, 0, 0] == pytest.approx((1 + 2 + 3) / 3 / 2)


def test_geometric_ratio_gives_every_sequence_the_same_say(benchmark):
    epe, reference = {"a": 0.2, "b": 8.0}, {"a": 0.1, "b": 1.0}
    assert benchmark.geometric_ratio(epe, reference) == pytest.approx(math.sqrt(2 * 8))
    assert benchmark.geometric_ratio(epe, epe) == pytest.approx(1)


def test_figures_of_a_method_are_medians_over_rounds_and_means_over_sequences(benchmark):
    slow = benchmark.Measured({"a": 0.1, "b": 0.4}, {"a": [900.0, 100.0, 110.0], "b": [300.0, 290.0, 900.0]})
    fast = benchmark.Measured({"a": 0.2, "b": 0.2}, {"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]})
    methods = benchmark.as_json({"tvl1_opencv": slow, "tvl1-fast": fast})["methods"]
    assert methods["tvl1_opencv"]["ms"] == pytest.approx((110 + 300) / 2)
    assert methods["tvl1_opencv"]["speedup"] == methods["tvl1_opencv"]["epe_geo_ratio"] == 1
    assert set(methods["tvl1-fast"]) == {"epe_mean", "epe_geo_ratio", "ms", "speedup", "epe"}
    assert methods["tvl1-fast"]["epe"] == {"a": 0.2, "b": 0.2}
    assert methods["tvl1-fast"]["epe_mean"] == pytest.approx(0.2)
    assert methods["tvl1-fast"]["epe_geo_ratio"] == pytest.approx(1)  # 2 and 1/2
    assert methods["tvl1-fast"]["speedup"] == pytest.approx(205 / 2)
    alone = benchmark.as_json({"tvl1-fast": fast})["methods"]["tvl1-fast"]
    assert alone["speedup"] is None and alone["epe_geo_ratio"] is None


def test_every_method_of_the_pipeline_has_settings_that_are_valid(benchmark):
    from flow_methods import PIPELINE_METHODS, flow_settings

    for name in PIPELINE_METHODS:
        settings = flow_settings(name)
        assert type(settings).model_validate(settings.model_dump(by_alias=True)) == settings
        assert settings.method == name.partition("-")[0] and settings.device == "cpu"


@pytest.mark.slow
def test_the_chart_names_every_method_and_is_the_same_file_each_time(benchmark, tmp_path):
    from flow_chart import Point, draw_chart

    points = [Point(f"method-{i}", "one", 10 * 1.3**i, 0.3 + 0.01 * (i % 3)) for i in range(6)]
    for name in ("a.svg", "b.svg"):
        draw_chart(points, "time & error", tmp_path / name)
    svg = (tmp_path / "a.svg").read_text()
    assert all(point.name in svg for point in points) and "time &amp; error" in svg
    assert svg == (tmp_path / "b.svg").read_text()


@pytest.mark.slow
def test_the_command_line_measures_and_writes_the_figures(tmp_path):
    for seed, name in enumerate(("one", "two")):
        _shifted_sequence(tmp_path / "pairs" / name, seed)
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCHMARKS / "flow.py"), "--data", str(tmp_path / "pairs"), "--size", "native"]
    command += ["--methods", "dis-medium", "tvl1_opencv-quick", "--repeats", "1", "--threads", "2", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    methods = json.loads(out.read_text())["methods"]
    assert list(methods) == ["dis-medium", "tvl1_opencv-quick"]
    for figures in methods.values():
        assert set(figures["epe"]) == {"one", "two"} and max(figures["epe"].values()) < 0.5
        assert figures["ms"] > 0 and figures["pairs_per_s_all"] > 0
    assert "dis-medium" in done.stdout and "compared with tvl1_opencv-quick" in done.stdout
    assert "<svg" in out.with_suffix(".svg").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.svg", "pairs"]


def _spoil(folder, what):
    if what == "no folder":
        return folder / "nowhere"
    if what == "empty":
        (folder / "nothing").mkdir()
        return folder / "nothing"
    if what == "the sequence itself":
        return folder / "pairs" / "one"
    sequence = folder / "pairs" / "one"
    if what == "missing frame":
        (sequence / "frame2.png").unlink()
    elif what == "cut frame":
        data = (sequence / "frame1.png").read_bytes()
        (sequence / "frame1.png").write_bytes(data[: len(data) // 2])
    elif what == "cut flow":
        data = (sequence / "flow.flo").read_bytes()
        (sequence / "flow.flo").write_bytes(data[:-8])
    elif what == "no flow file":
        (sequence / "flow.flo").write_bytes(b"PNG")
    elif what == "other size":
        cv2.imwrite(str(sequence / "frame2.png"), _texture(40, 64))
    elif what == "nothing known":
        flow = np.full(48 * 64 * 2, 1e9, np.float32)
        (sequence / "flow.flo").write_bytes(struct.pack("<fii", 202021.25, 64, 48) + flow.tobytes())
    return folder / "pairs"


@pytest.mark.parametrize(
    "what, words",
    [
        ("no folder", ["nowhere", "No such file"]),
        ("empty", ["nothing", "holds no"]),
        ("the sequence itself", ["one", "holds no"]),
        ("missing frame", ["frame2.png", "No such file"]),
        ("cut frame", ["frame1.png", "cut short"]),
        ("cut flow", ["flow.flo", "cut short"]),
        ("no flow file", ["flow.flo", "not a .flo file"]),
        ("other size", ["sizes differ", "64x48", "64x40"]),
        ("nothing known", ["flow.flo", "known"]),
    ],
)
def test_bad_ground_truth_is_one_line(tmp_path, what, words):
    _shifted_sequence(tmp_path / "pairs" / "one", 0)
    with pytest.raises((UserError, OSError)) as error:
        read_pairs(_spoil(tmp_path, what))
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--methods", "tvl1-balnced"], ["tvl1-balnced", "tvl1-balanced"]),
        (["--size", "340"], ["--size", "340"]),
        (["--repeats", "0"], ["--repeats", "'0'"]),
        (["--json", "no/such/folder/out.json"], ["out.json", "cannot be written"]),
    ],
)
def test_bad_arguments_are_refused_before_any_work(benchmark, tmp_path, capsys, arguments, words):
    _shifted_sequence(tmp_path / "one", 0)
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--data", str(tmp_path), *arguments])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and all(word in last for word in words), last


def test_nvidias_engine_is_one_line_where_it_is_missing(benchmark, monkeypatch, tmp_path, capsys):
    import nvidia_engine

    monkeypatch.setattr(nvidia_engine, "has_gpu", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _shifted_sequence(tmp_path / "one", 0)
    command = ["--data", str(tmp_path), "--size", "native", "--repeats", "1", "--methods"]
    with pytest.raises(SystemExit) as stop:
        benchmark.main([*command, "nvof", "nvof-fast"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "no GPU" in line and "pip install torch-nvidia-of-sdk" in line
    benchmark.main([*command, "nvof", "dis-ultrafast"])
    output = capsys.readouterr()
    assert "dis-ultrafast" in output.out and "nvof" not in output.out
    assert [one for one in output.err.splitlines() if one.startswith("nvof: not measured: no GPU")]


def test_nvidias_engine_gets_colour_images_and_gives_flow(monkeypatch):
    import nvidia_engine
    import torch

    class Engine:
        def compute_flow(self, first, second, upsample, disable_temporal_hints):
            assert first.shape == second.shape == (16, 24, 4) and first.dtype == torch.uint8 and first.is_contiguous()
            assert upsample and disable_temporal_hints
            return (second.float() - first.float())[..., :2]

    monkeypatch.setattr(nvidia_engine, "_engine", lambda *_: Engine())
    first, second = torch.zeros(3, 16, 24, dtype=torch.uint8), torch.full((3, 16, 24), 5, dtype=torch.uint8)
    flow = nvidia_engine.NvidiaEngine("fast").match_batch(first, second)
    assert flow.shape == (3, 16, 24, 2) and (flow == 5).all()


@pytest.mark.slow
def test_switches_of_a_training_step_are_compared_by_time_and_bytes():
    command = [
        sys.executable,
        str(BENCHMARKS / "training_step.py"),
        "--cases",
        "resnet18",
        "--steps",
        "1",
        "--repeats",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert len(rows) >= 3 and {row[0] for row in rows} == {"resnet18"}
    assert all(float(row[-3]) > 0 and row[-1] == "yes" for row in rows[:3])


@pytest.mark.slow
def test_extraction_is_timed_beside_its_solver(tmp_path):
    for name in ("a.avi", "b [1].mp4"):
        write_video(tmp_path / "class" / name, moving_texture(5))
    (tmp_path / "class" / "notes.txt").write_text("no video")
    command = [sys.executable, str(BENCHMARKS / "extraction.py"), "--videos", str(tmp_path), "--short-side", "32"]
    command += ["--methods", "dis-fast", "--repeats", "1", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 clips, 8 pairs, short side 32 px" in done.stdout
    assert all(float(cell) > 0 for cell in done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.slow
def test_a_training_step_is_timed_fed_by_the_loader_and_from_memory(tmp_path):
    for name in ("a.avi", "b [1].mp4"):
        write_video(tmp_path / "class" / name, moving_texture(20))
    command = [sys.executable, str(BENCHMARKS / "loader.py"), "--videos", str(tmp_path), "--short-side", "48"]
    command += ["--repeats", "1", "--cases", "flow3d", "--steps", "1", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, _, row = done.stdout.splitlines()
    assert first.startswith("2 clips, short side 48 px")
    assert row.split()[0] == "flow3d" and all(float(cell) > 0 for cell in row.split()[1:])
