import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from helpers import ROOT, moving_texture, write_audio, write_video
from random_models import CLASSES, make_models

from twostream.cli import main
from twostream.inference.predict import Predictor
from twostream.params import Score
from twostream.video.probe import probe


@pytest.mark.slow
def test_models_lists_every_network_with_its_parameters(capsys):
    main(["models"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:-2]]
    counts = {(name, modality): count for name, modality, _, count in rows}
    assert counts["cnn3d_v1", "rgb"] == "1,125,555"
    assert counts["cnn3d_v2", "rgb"] == "325,875"
    assert counts["resnet50", "rgb"] == "23,612,531"


def test_check_confirms_a_valid_file(capsys):
    main(["check", str(ROOT / "params.yaml")])
    assert "valid. Data set demo" in capsys.readouterr().out


def test_check_names_file_key_and_remedy_and_exits_with_2(tmp_path, capsys):
    text = (ROOT / "params.yaml").read_text().replace("method: tvl1", "method: tvl2")
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(tmp_path / "p.yaml")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("ERROR: ") and "flow.method: 'tvl2'" in error and error.count("\n") == 1


def test_profile_lists_writes_and_compares(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["profile"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in ROOT.glob("profiles/[!b]*.yaml"))
    main(["profile", "folder", "--set", "seed=3", "--set", "dataset.source=clips"])
    main(["profile", "--diff"])
    out = capsys.readouterr().out.splitlines()
    assert out[1:] == [
        "params.yaml differs from profile folder",
        "  seed            0 -> 3",
        '  dataset.source  "/path/to/clips" -> "clips"',
    ]


def test_results_without_a_run_says_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["results", "--metrics", str(tmp_path / "none.json")])
    assert stopped.value.code == 2
    assert "dvc repro" in capsys.readouterr().err


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("random") / "models")


def _predict(models, *arguments):
    main(["predict", "--models", str(models), "--accelerator", "cpu", *map(str, arguments)])


@pytest.mark.slow
def test_predict_prints_the_top_classes_of_the_fusion_and_of_each_stream(models, tmp_path, capsys):
    path = write_video(tmp_path / "a [1].avi", moving_texture(20), rate=10)
    _predict(models, path, "--segments", "2", "--no-flip")
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert first == f"{path}: 2.00 s, 20 frames"
    assert head.split() == ["class", "fusion", "spatial", "temporal"]
    predictor = Predictor(models, accelerator="cpu", score=Score(segments=2, crops=1, flip=False))
    prediction = predictor.predict(path)
    for row, (name, probability) in zip(rows[:2], prediction.top(), strict=True):
        at = CLASSES.index(name)
        shares = [probability, *(prediction.probabilities(stream)[at] for stream in ("spatial", "temporal"))]
        assert row.split()[-3:] == [f"{100 * share:.1f}%" for share in shares]
        assert row.strip().startswith(name)
    assert rows[2].startswith("  spatial alone:") and len(rows) == 4


@pytest.mark.slow
def test_predict_on_a_folder_reports_unreadable_videos_and_goes_on(models, tmp_path, capsys):
    for name in ("b/2.avi", "a/é 'x'.MP4", "a/1.mkv"):
        write_video(tmp_path / "in" / name, moving_texture(12), rate=10)
    (tmp_path / "in/a/bad\n.avi").write_text("no video")
    (tmp_path / "in/a/notes.txt").write_text("not asked about")
    _predict(models, tmp_path / "in", "--json", "--top", "1", "--every", "0.6")
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["video"] for row in rows] == [str(tmp_path / "in" / n) for n in ("a/1.mkv", "a/é 'x'.MP4", "b/2.avi")]
    for row in rows:
        assert (row["seconds"], row["frames"], len(row["windows"])) == (1.2, 12, 2)
        (top,) = row["top"]
        assert set(top) == {"class", "fusion", "spatial", "temporal"} and 0.5 <= top["fusion"] <= 1
    errors = [line for line in err.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1 and "bad .avi: not a video" in errors[0] and "notes" not in err


@pytest.mark.parametrize("kind", ["text", "audio", "folder without videos", "missing", "no models", "--annotate two"])
def test_predict_reports_an_error_in_one_line_and_exits_with_2(models, tmp_path, capsys, kind):
    given = [tmp_path / "a.mp4"]
    if kind == "text":
        given[0].write_text("text")
    elif kind == "audio":
        given = [write_audio(tmp_path / "a.wav")]
    elif kind == "folder without videos":
        (tmp_path / "readme.txt").touch()
        given = [tmp_path]
    elif kind == "no models":
        models = tmp_path / "models"
    elif kind == "--annotate two":
        given = [tmp_path / "a.mp4", tmp_path / "b.mp4", "--annotate", tmp_path / "out.mp4"]
    with pytest.raises(SystemExit) as stopped:
        _predict(models, *given)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("ERROR: ") and err.count("\n") == 1


def test_predict_shows_the_windows_of_a_long_video_and_writes_the_annotated_copy(models, tmp_path, capsys):
    path = write_video(tmp_path / "a.avi", moving_texture(20), rate=10)
    _predict(models, path, "--every", "1", "--annotate", tmp_path / "out.mp4")
    out = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in out if " to " in line] == ["0:00.0 to 0:01.0", "0:01.0 to 0:02.0"]
    assert probe(tmp_path / "out.mp4").frames == 20


def test_export_names_its_files_and_their_difference(models, tmp_path, capsys, monkeypatch):
    from twostream.inference import export

    done = [export.Exported("spatial", tmp_path / "spatial.onnx", 2e-7)]
    monkeypatch.setattr(export, "export", lambda predictor, out: done if out == tmp_path else None)
    main(["export", "--models", str(models), "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "spatial.onnx: logits differ from PyTorch's by at most 2.0e-07" in out and "export.json" in out


def test_serve_and_doctor_get_the_arguments_of_the_command_line(monkeypatch):
    called = []
    serving, doctoring = types.ModuleType("twostream.inference.serve"), types.ModuleType("twostream.doctor")
    serving.serve = lambda models, split, host, port, max_megabytes, max_seconds, open_browser: called.append(
        (models, split, host, port, max_megabytes, max_seconds, open_browser)
    )
    doctoring.doctor = lambda params_path: called.append(params_path) or 1
    monkeypatch.setitem(sys.modules, "twostream.inference.serve", serving)
    monkeypatch.setitem(sys.modules, "twostream.doctor", doctoring)
    main(["serve", "--models", "m", "--port", "0", "--max-megabytes", "1.5", "--no-browser"])
    assert called[0][:5] == (Path("m"), 1, "127.0.0.1", 0, 1.5) and called[0][-1] is False
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "other.yaml"])
    assert stopped.value.code == 1 and called[1] == "other.yaml"


def test_help_has_a_line_per_command_and_imports_nothing_heavy():
    script = (
        "import sys; from twostream.cli import make_parser; make_parser().print_help();"
        "sys.exit(bool({'torch', 'numpy', 'pandas', 'cv2'} & set(sys.modules)))"
    )
    env = {**os.environ, "COLUMNS": "80"}
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True, env=env)
    lines = run.stdout.splitlines()
    commands = [line.split()[0] for line in lines[lines.index("commands:") + 2 :]]
    expected = "profile import doctor check why cache models weights train results predict serve flow export completion"
    assert commands == expected.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_names_the_commands(shell, capsys):
    main(["completion", shell])
    script = capsys.readouterr().out
    assert all(command in script for command in ("doctor", "predict", "serve", "export"))
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
