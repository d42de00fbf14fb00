import copy
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, TEST_DATA, moving_texture, write_video

from twostream import doctor as module
from twostream.clipstore.frames import stored_size
from twostream.core.parallel import cores
from twostream.doctor import Check, DatasetSize, checks, dataset_size, doctor, stored_bytes
from twostream.errors import UserError
from twostream.params import parse_params

SHARED = TEST_DATA
SIZE = DatasetSize(clips=100, frames=50.0, width=320, height=240, video_bytes=1e6, train=0.7, source="test")


@pytest.fixture
def values(demo_values, tmp_path, monkeypatch) -> dict:
    """The demo's parameters as a mapping to change; the working folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    values = copy.deepcopy(demo_values)
    values["dataset"]["source"] = str(ROOT / values["dataset"]["source"])
    return values


@pytest.fixture
def quick(monkeypatch) -> None:
    """PyTorch is not imported."""
    monkeypatch.setattr(module, "_torch", lambda params: Check("PyTorch", "ok", "there"))


def write(values: dict) -> str:
    Path("params.yaml").write_text(yaml.safe_dump(values))
    return "params.yaml"


def found(values: dict, what: str) -> list[Check]:
    return [check for check in checks(write(values)) if check.what == what]


def test_a_ready_machine_gives_exit_code_0_and_one_line_per_check(values, quick, capsys):
    assert doctor(write(values)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("ready")
    assert all(line.split()[0] in ("ok", "warning") for line in lines[:-1])
    looked_at = [line.split()[1] for line in lines[:-1]]
    assert looked_at == [
        *("packages", "parameters", "machine", "PyTorch", "source", "outputs", "unpacker", "weights"),
        *("clips", "disk", "time"),
    ]


def test_a_problem_gives_exit_code_1_and_names_the_key(values, quick, capsys):
    values["dataset"].update(name="folder", source="not/there")
    assert doctor(write(values)) == 1
    out = capsys.readouterr().out
    assert "problem  source      dataset.source: not/there does not exist" in out
    assert out.splitlines()[-1].startswith("not ready: problems 1")


def test_wrong_parameters_are_one_problem_and_no_traceback(values, capsys):
    values["flow"]["method"] = "tvl2"
    assert doctor(write(values)) == 1
    assert "flow.method" in [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")][0]


@pytest.mark.parametrize(
    ("installed", "message"), [("0.0.1", "numpy 0.0.1 is not >=2.0"), (None, "numpy is not installed")]
)
def test_a_package_that_is_too_old_or_absent_is_a_problem_with_a_remedy(monkeypatch, installed, message):
    def version(name):
        if name == "numpy" and installed is None:
            raise module.importlib.metadata.PackageNotFoundError(name)
        return installed if name == "numpy" else "9999"

    required = ["tqdm>=4", "numpy>=2.0", 'pytest>=99999; extra == "dev"']
    monkeypatch.setattr(module.importlib.metadata, "requires", lambda _: required)
    monkeypatch.setattr(module.importlib.metadata, "version", version)
    check = module._packages()
    assert check.level == "problem"
    assert check.message == f"{message}: pip install -r requirements.txt"


def test_an_absent_unpacker_is_named_and_only_the_demo_needs_none(values, quick, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    assert [check.level for check in found(values, "unpacker")] == ["ok"]
    values["dataset"].update(name="folder", source="clips")
    (check,) = found(values, "unpacker")
    assert check.level == "warning" and "bsdtar" in check.message


def test_mirrors_are_named_but_not_contacted(values, quick, monkeypatch):
    import socket

    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    values["dataset"].update(name="hmdb51", source=str(ROOT / "profiles" / "mirrors" / "hmdb51.yaml"))
    (check,) = found(values, "source")
    assert check.level == "warning" and "MichiganNLP/hmdb" in check.message
    Path("downloads/hmdb51").mkdir(parents=True)
    assert [check.level for check in found(values, "source")] == ["ok"]


def test_a_weight_file_is_there_or_a_problem(values, quick, tmp_path):
    values["streams"]["spatial"]["weights"] = "data/weights/mine.pth"
    (check,) = found(values, "weights")
    assert check.level == "problem" and check.message.startswith(
        "streams.spatial.weights: data/weights/mine.pth does not exist"
    )
    Path("data/weights").mkdir(parents=True)
    Path("data/weights/mine.pth").write_bytes(b"x")
    assert [check.level for check in found(values, "weights")] == ["ok"]


def test_a_disk_too_small_is_a_problem_but_files_already_written_count(values, quick, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(0, 0, 10**7))
    (check,) = found(values, "disk")
    assert check.level == "problem" and "short_side" in check.message and "10 MB free" in check.message
    (tmp_path / "data" / "rgb").mkdir(parents=True)
    with open(tmp_path / "data" / "rgb" / "a.zip", "wb") as file:
        file.truncate(200 * 10**6)
    assert [check.level for check in found(values, "disk")] == ["ok"]


def test_a_folder_is_counted_and_a_few_of_its_videos_are_decoded(values, tmp_path):
    for number, frames in enumerate((10, 20)):
        write_video(tmp_path / "mine" / "run & jump" / f"[{number}].avi", moving_texture(frames, 48, 64), codec="mjpeg")
    (tmp_path / "mine" / "notes.txt").write_text("no video")
    values["dataset"].update(name="folder", source="mine")
    size = dataset_size(parse_params(values))
    assert (size.clips, size.frames, size.width, size.height) == (2, 15.0, 64, 48)
    assert size.video_bytes == sum(path.stat().st_size for path in (tmp_path / "mine").rglob("*.avi"))


def test_the_benchmarks_are_known_before_they_are_fetched(values):
    values["dataset"].update(name="hmdb51", source=str(ROOT / "profiles" / "mirrors" / "hmdb51.yaml"))
    size = dataset_size(parse_params(values))
    assert (size.clips, size.frames, size.width, size.height) == (6766, 93.0, 320, 240)


def test_clips_of_an_archive_are_not_estimated(values, quick, tmp_path):
    (tmp_path / "clips.zip").write_bytes(b"PK")
    values["dataset"].update(name="folder", source="clips.zip")
    with pytest.raises(UserError, match="no videos that can be counted"):
        dataset_size(parse_params(values))
    assert [check.level for check in found(values, "clips")] == ["warning"]


def test_sizes_grow_with_the_side_and_the_number_of_frames(values):
    def sizes(**changes):
        changed = copy.deepcopy(values)
        for key, value in changes.items():
            section, name = key.split("__")
            changed[section][name] = value
        return stored_bytes(parse_params(changed), SIZE)

    plain = sizes()
    assert plain["rgb"] < sizes(rgb__short_side=240)["rgb"] < 4 * plain["rgb"]  # four times the pixels, smoother ones
    assert sizes(flow__frames=11)["flow"] == pytest.approx(plain["flow"] * 10 / 49)
    assert sizes(rgb__short_side=480)["rgb"] == sizes(rgb__short_side=240)["rgb"]  # clips of 240 are not enlarged


@pytest.mark.skipif(not (SHARED / "hmdb51").is_dir(), reason="TWOSTREAM_TEST_DATA is not set")
def test_estimated_sizes_are_those_of_genuine_clips_within_a_factor_of_two(values):
    """Against JPEGs of another library, at a size that the estimate was not fitted to."""
    from PIL import Image

    from twostream.video import read_frames

    values["rgb"]["short_side"] = 180
    written, pixels = 0, 0
    for path in sorted((SHARED / "hmdb51" / "videos").rglob("*.avi")):
        frame = list(read_frames(path))[5]
        size = stored_size(frame.shape[1], frame.shape[0], 180)
        image = Image.fromarray(frame).resize(size)
        target = Path("frame.jpg")
        image.save(target, quality=92)
        written += target.stat().st_size
        pixels += size[0] * size[1]
    width, height = stored_size(320, 240, 180)
    estimated = stored_bytes(parse_params(values), SIZE)["rgb"] / (SIZE.clips * SIZE.frames) / (width * height)
    assert 0.5 < estimated / (written / pixels) < 2


def test_times_follow_from_the_rates_and_the_size_of_the_work(values):
    """By hand: 70 % of 100 clips, 10 epochs, 2 splits, 16 frames of 64 x 64 pixels, 0.93 core-seconds per Mpx."""
    values["dataset"].update(test_fraction=0.3, splits=[1, 2])
    values["train"].update(rgb=["spatial"], flow=["temporal"])
    values["streams"]["spatial"].update(model="timm/unknown")
    values["streams"]["temporal"].update(epochs=10, size=64)
    values["flow"]["tvl1"]["preset"] = "balanced"
    values["runtime"]["workers"] = 1
    check = module._time(parse_params(values), SIZE)
    temporal_s = 0.93 * 70 * 10 * 2 * 16 * 64 * 64 / 1e6 / cores()
    flow_s = 0.067 * 100 * 49 * 160 * 120 / 1e6
    assert f"flow {flow_s:.0f} s" in check.message and f"temporal {temporal_s:.0f} s" in check.message
    assert "spatial unknown" in check.message


def test_importing_the_doctor_imports_nothing_heavy():
    code = (
        "import sys, twostream.doctor; print(sorted({'torch', 'timm', 'sklearn', 'cv2', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]", result.stderr
