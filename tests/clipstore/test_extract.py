import shutil
import subprocess
import sys
import typing
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, as_pulled, moving_texture, write_video

from twostream import flow
from twostream.clipstore import ClipReader
from twostream.clipstore import extract as extraction
from twostream.clipstore import flow as flow_extraction
from twostream.clipstore.extract import extract_flow, extract_rgb, flow_fingerprint
from twostream.core.cache import FileCache
from twostream.datasets.tables import CLIP_COLUMNS
from twostream.errors import UserError
from twostream.flow.batch import BatchSolver
from twostream.flow.encoding import decode_flow, encode_flow
from twostream.params import Flow, parse_params

NAMES = ["a [1]", "b & 'c' \"d\"; #e!", "ünïcödé", "line\nbreak"]


METHODS = typing.get_args(Flow.model_fields["method"].annotation)


@pytest.fixture
def scene(tmp_path, demo_values):
    """Four clips with awkward names whose texture moves two pixels a frame to the right."""
    rows = []
    for i, name in enumerate(NAMES):
        write_video(tmp_path / "videos" / "wave" / f"{name}.avi", moving_texture(6 + i, seed=i))
        rows.append([f"wave/{name}", f"wave/{name}.avi", "wave", "g", 6 + i, 25.0, 64, 48, "ok", ""])
    rows.append(["wave/bad", "wave/bad.avi", "wave", "g", 0, 0.0, 0, 0, "unreadable", "empty"])
    clips = pd.DataFrame(rows, columns=CLIP_COLUMNS)
    return tmp_path, clips, parse_params(demo_values)


def _run(scene, settings, out="out", workers=1):
    folder, clips, _ = scene
    extract = extract_flow if isinstance(settings, Flow) else extract_rgb
    return extract(clips, folder / "videos", folder / out, settings, FileCache(folder / "cache", None), workers)


def _flow(demo_values, **changes) -> Flow:
    return parse_params({**demo_values, "flow": {**demo_values["flow"], **changes}}).flow


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "wave").iterdir())}


def test_every_readable_clip_gets_a_file_with_all_its_frames(scene):
    folder, _, params = scene
    assert _run(scene, params.rgb) == {"clips": 4, "extracted": 4, "cached": 0}
    for i, name in enumerate(NAMES):
        with ClipReader(folder / "out" / "wave" / f"{name}.zip") as clip:
            assert len(clip) == 6 + i and clip.meta["modality"] == "rgb"
            frame = clip.read([3])[0]
        assert np.abs(frame.astype(int) - moving_texture(6 + i, seed=i)[3]).mean() < 14
    assert not (folder / "out" / "wave" / "bad.zip").exists()


def test_files_that_are_right_stay_and_those_of_other_clips_go(scene):
    folder, clips, params = scene
    _run(scene, params.rgb)
    out = folder / "out" / "wave"
    before = {path.name: path.stat().st_ino for path in out.iterdir()}
    (out / "old").mkdir()
    (out / "old" / "gone.zip").touch()
    (out / f"{NAMES[1]}.zip").unlink()
    shutil.copy(out / f"{NAMES[0]}.zip", out / f"{NAMES[1]}.zip")  # the file of another clip
    assert _run((folder, clips[1:], params), params.rgb) == {"clips": 3, "extracted": 0, "cached": 3}
    after = {path.name: path.stat().st_ino for path in out.iterdir()}
    assert sorted(after) == sorted(f"{name}.zip" for name in NAMES[1:])
    assert {name for name in after if after[name] == before[name]} >= {f"{name}.zip" for name in NAMES[2:]}
    with ClipReader(out / f"{NAMES[1]}.zip") as clip:
        assert len(clip) == 7


def test_flow_is_that_of_each_frame_to_the_next(scene):
    folder, _, params = scene
    _run(scene, params.flow)
    with ClipReader(folder / "out" / "wave" / f"{NAMES[1]}.zip") as clip:
        assert len(clip) == 6  # 7 frames
        flow = decode_flow(clip.read(range(6)), params.flow.bound)
    assert np.abs(np.median(flow[:, 10:-10, 10:-10].reshape(6, -1, 2), 1) - [2, 0]).max() < 0.3


def test_flow_between_spread_frames_covers_the_whole_clip(scene, demo_values):
    folder, _, _ = scene
    settings = _flow(demo_values, frames=4)
    _run(scene, settings)
    with ClipReader(folder / "out" / "wave" / f"{NAMES[1]}.zip") as clip:
        # frames 0, 2, 4, 6 of 7: two frames of two pixels each
        flow_px = decode_flow(clip.read(range(3)), settings.bound)
    assert flow_px.shape[0] == 3
    assert np.abs(np.median(flow_px[..., 0]) - 4) < 0.3


def test_nothing_is_computed_twice(scene):
    folder, _, params = scene
    _run(scene, params.flow)
    before = _bytes(folder / "out")
    shutil.rmtree(folder / "out")  # as DVC does before it runs a stage
    assert _run(scene, params.flow) == {"clips": 4, "extracted": 0, "cached": 4}
    assert _bytes(folder / "out") == before


def test_one_more_clip_costs_one_more_clip(scene):
    folder, clips, params = scene
    _run((folder, clips.iloc[:3], params), params.rgb)
    assert _run(scene, params.rgb) == {"clips": 4, "extracted": 1, "cached": 3}


def test_clips_that_were_pulled_are_not_extracted_again(scene, monkeypatch):
    """DVC's objects and dvc.lock are there, the cache of the machine that extracted is not."""
    folder, clips, params = scene
    monkeypatch.chdir(folder)
    _run((folder, clips.iloc[:3], params), params.rgb)
    before = _bytes(Path("out"))
    as_pulled("out", "objects")
    shutil.rmtree("cache")
    pulled = clips.copy()
    pulled.loc[0, "clip_id"] = "wave/renamed"
    cache = FileCache("cache", "objects")
    counts = extract_rgb(pulled, Path("videos"), Path("out"), params.rgb, cache, 1)
    assert counts == {"clips": 4, "extracted": 1, "cached": 3}
    after = _bytes(Path("out"))
    assert after["renamed.zip"] == before[f"{NAMES[0]}.zip"] and after[f"{NAMES[1]}.zip"] == before[f"{NAMES[1]}.zip"]


def test_a_damaged_fingerprint_of_pulled_clips_costs_an_extraction_and_no_error(scene, monkeypatch):
    folder, clips, params = scene
    monkeypatch.chdir(folder)
    _run(scene, params.rgb)
    Path("out/extraction.json").write_bytes(b"{ cut sh")
    as_pulled("out", "objects")
    counts = extract_rgb(clips, Path("videos"), Path("out"), params.rgb, FileCache("cut", "objects"), 1)
    assert counts == {"clips": 4, "extracted": 4, "cached": 0}


def test_pulled_clips_of_other_settings_are_not_used(scene, monkeypatch, demo_values):
    folder, clips, params = scene
    monkeypatch.chdir(folder)
    _run(scene, params.rgb)
    as_pulled("out", "objects")
    other = parse_params({**demo_values, "rgb": {**demo_values["rgb"], "jpeg_quality": 50}}).rgb
    counts = extract_rgb(clips, Path("videos"), Path("out"), other, FileCache("cache", "objects"), 1)
    assert counts == {"clips": 4, "extracted": 4, "cached": 0}


def test_a_clip_that_was_damaged_before_dvc_took_it_is_extracted_again(scene, monkeypatch):
    folder, clips, params = scene
    monkeypatch.chdir(folder)
    _run(scene, params.rgb)
    before = _bytes(Path("out"))
    clip = next(path for path in Path("out").rglob("*.zip"))
    content = bytearray(clip.read_bytes())
    content[len(content) // 3] ^= 1
    clip.unlink()
    clip.write_bytes(content)
    as_pulled("out", "objects")
    counts = extract_rgb(clips, Path("videos"), Path("out"), params.rgb, FileCache("lost", "objects"), 1)
    assert counts == {"clips": 4, "extracted": 1, "cached": 3}
    assert _bytes(Path("out")) == before


def test_a_changed_video_is_extracted_again(scene):
    folder, _, params = scene
    _run(scene, params.rgb)
    write_video(folder / "videos" / "wave" / f"{NAMES[0]}.avi", moving_texture(6, seed=9))
    assert _run(scene, params.rgb)["extracted"] == 1


def test_a_parameter_changed_and_changed_back_costs_nothing(scene, demo_values):
    _, _, params = scene
    other = _flow(demo_values, method="dis")
    _run(scene, params.flow)
    assert _run(scene, other)["extracted"] == 4
    assert _run(scene, params.flow)["extracted"] == 0


def test_another_methods_parameter_does_not_count(scene, demo_values):
    _, _, params = scene
    _run(scene, params.flow)
    other = _flow(demo_values, dis={"preset": "fast"})
    assert _run(scene, other)["extracted"] == 0


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(scene):
    folder, _, params = scene
    _run(scene, params.flow, "one", workers=1)
    shutil.rmtree(folder / "cache")
    assert _run(scene, params.flow, "two", workers=2)["extracted"] == 4
    assert _bytes(folder / "one") == _bytes(folder / "two")


def test_a_clip_that_went_bad_is_named(scene):
    folder, _, params = scene
    (folder / "videos" / "wave" / f"{NAMES[0]}.avi").write_text("gone")
    with pytest.raises(UserError, match=r"1 clips cannot be read any more: 'wave/a \[1\]'"):
        _run(scene, params.rgb)


def test_a_video_that_is_gone_is_named(scene):
    folder, _, params = scene
    (folder / "videos" / "wave" / f"{NAMES[0]}.avi").unlink()
    with pytest.raises(UserError, match=r"'wave/a \[1\]' \(No such file or directory\)"):
        _run(scene, params.rgb)


def test_only_a_few_frames_are_alive_however_long_the_clip(scene, monkeypatch, demo_values):
    folder, clips, _ = scene
    alive, most = weakref.WeakSet(), 0

    class Frame(np.ndarray):
        __hash__ = object.__hash__

    def frames(*_):
        nonlocal most
        for image in np.random.default_rng(0).integers(0, 256, (200, 48, 64), np.uint8):
            image = image.copy().view(Frame)
            alive.add(image)
            most = max(most, len(alive))
            yield image

    monkeypatch.setattr(flow_extraction, "read_frames", frames)
    _run((folder, clips.iloc[:1], None), _flow(demo_values, method="dis"))
    with ClipReader(folder / "out" / "wave" / f"{NAMES[0]}.zip") as clip:
        assert len(clip) == 199
    assert most <= 4


def test_the_solver_is_kept_from_clip_to_clip(scene, monkeypatch, demo_values):
    made = []
    monkeypatch.setattr(flow_extraction, "make_solver", lambda *given: made.append(given) or flow.make_solver(*given))
    flow_extraction._solver.cache_clear()
    _run(scene, _flow(demo_values, method="dis"))
    assert len(made) == 1


@pytest.mark.slow
def test_all_kernels_are_compiled_before_the_workers_start(demo_values):
    """In a process of its own: others may have compiled here what this should show to be missing."""
    script = f"""
import sys, numba, numpy as np
from twostream.clipstore.extract import _compile_kernels
from twostream.flow import make_solver
from twostream.params import Flow
settings = Flow.model_validate_json({_flow(demo_values, method="tvl1").model_dump_json(by_alias=True)!r})
def compiled():
    modules = [module for name, module in sys.modules.items() if name.startswith("twostream.flow")]
    return sum(len(value.signatures) for module in modules for value in vars(module).values()
               if hasattr(value, "signatures"))
_compile_kernels(settings)
before = compiled()
images = np.random.default_rng(1).integers(0, 256, (2, 50, 300), np.uint8)
make_solver(settings, "cpu")(*images)
assert 0 < before == compiled(), (before, compiled())
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def _with_gpu(monkeypatch, solver) -> None:
    """Have extraction believe in a GPU, for which `solver` stands."""
    monkeypatch.setattr(extraction, "resolve_device", lambda _: "cuda")
    monkeypatch.setattr(extraction, "make_solver", lambda *_: solver)


class _Differences(BatchSolver):
    """Stands for a solver on a GPU: x is the difference of the images, y the first one, in sixteenths of a pixel."""

    device = torch.device("cpu")

    def match_batch(self, first, second):
        return torch.stack([second.float() - first.float(), first.float() - 128], -1) / 16


@pytest.mark.slow
def test_clips_solved_in_batches_are_those_solved_pair_by_pair(scene, monkeypatch, demo_values):
    from twostream.flow import gpu_server as flowserver
    from twostream.flow.methods.tvl1 import PRESETS
    from twostream.flow.methods.tvl1.torch import Tvl1Torch

    folder, clips, _ = scene
    solver, settings = Tvl1Torch(PRESETS["fast"], "cpu"), _flow(demo_values, method="tvl1")
    monkeypatch.setattr(flowserver, "CHUNK_PX", 4 * 48 * 64)
    monkeypatch.setattr(flowserver, "BATCH_PX", 4 * 48 * 64)
    _with_gpu(monkeypatch, solver)
    assert _run(scene, settings)["extracted"] == 4
    for row in clips.iloc[:4].itertuples():
        grey = flow_extraction.read_frames(folder / "videos" / row.path, "gray")
        codes = [encode_flow(flow_px, settings.bound) for flow_px in solver.sequence(grey)]
        with ClipReader(folder / "out" / f"{row.clip_id}.zip") as clip:
            meta = {name: clip.meta[name] for name in ("modality", "source", "settings")}
        extraction.write_clip(folder / "alone.zip", codes, settings.jpeg_quality, meta)
        assert (folder / "alone.zip").read_bytes() == (folder / "out" / f"{row.clip_id}.zip").read_bytes()


@pytest.mark.slow
def test_several_processes_get_their_flow_from_the_server(scene, monkeypatch, demo_values):
    folder, _, _ = scene
    _with_gpu(monkeypatch, _Differences())
    _run(scene, _flow(demo_values, method="tvl1"), "one", workers=1)
    shutil.rmtree(folder / "cache")
    assert _run(scene, _flow(demo_values, method="tvl1"), "two", workers=2)["extracted"] == 4
    assert _bytes(folder / "one") == _bytes(folder / "two")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_gpu_that_fails_is_one_line_and_leaves_nothing_half_written(scene, monkeypatch, demo_values, workers):
    class Broken(_Differences):
        def match_batch(self, first, second):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nand much more")

    folder, _, _ = scene
    _with_gpu(monkeypatch, Broken())
    with pytest.raises(UserError, match=r"^flow.device: cpu failed \(CUDA error: an illegal [^\n]*\); [^\n]*$"):
        _run(scene, _flow(demo_values, method="tvl1"), workers=workers)
    assert not [path for path in (folder / "out").rglob("*") if path.is_file()]


def test_the_device_counts_for_the_methods_that_use_it(demo_values):
    auto, cpu = (_flow(demo_values, method="tvl1", device=device) for device in ("auto", "cpu"))
    assert flow_fingerprint(auto, "cpu") == flow_fingerprint(cpu, "cpu") != flow_fingerprint(auto, "cuda")


def test_methods_without_a_gpu_stay_on_the_cpu(monkeypatch, demo_values):
    monkeypatch.setattr(flow, "has_gpu", lambda: True)
    devices = {method: flow.resolve_device(_flow(demo_values, method=method)) for method in METHODS}
    assert [method for method, device in devices.items() if device == "cuda"] == ["tvl1", "raft"]
    assert flow.resolve_device(_flow(demo_values, method="tvl1", device="cpu")) == "cpu"


def test_auto_is_the_cpu_where_there_is_no_gpu_and_cuda_is_refused(monkeypatch, demo_values):
    monkeypatch.setattr(flow, "has_gpu", lambda: False)
    assert flow.resolve_device(_flow(demo_values, method="tvl1", device="auto")) == "cpu"
    with pytest.raises(UserError, match=r"^flow\.device: cuda, but .* no GPU"):
        flow.resolve_device(_flow(demo_values, method="tvl1", device="cuda"))


@pytest.mark.slow
def test_a_machine_without_a_driver_need_not_load_torch(demo_values):
    script = f"""
import ctypes, sys
def no_driver(name): raise OSError(name)
ctypes.CDLL = no_driver
import twostream.clipstore.extract
from twostream.params import Flow
settings = Flow.model_validate_json({_flow(demo_values, method="tvl1").model_dump_json(by_alias=True)!r})
assert twostream.flow.resolve_device(settings) == "cpu"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_damage_to_a_new_file_of_the_cache_does_not_reach_the_output(scene):
    """Whether it was extracted or served: DVC has not read the output yet."""
    folder, _, params = scene
    _run(scene, params.rgb)
    before = _bytes(folder / "out")
    for _ in range(2):
        for path in (folder / "cache/pending").rglob("*"):
            if path.is_file():
                path.chmod(0o644)
                path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert _bytes(folder / "out") == before
        shutil.rmtree(folder / "out")
        _run(scene, params.rgb)
    assert _bytes(folder / "out") == before
