"""Streams that `twostream train` trains side by side are taken from the cache by `dvc repro`."""

from __future__ import annotations

import pytest

from twostream.errors import UserError
from twostream.streams.jobs import Job, check_finished

pytestmark = pytest.mark.slow


def test_streams_trained_side_by_side_are_finished_for_dvc(small_project):
    small_project.restore()
    small_project.set({"seed": 5})
    small_project.repro("split")
    before = sorted((small_project.folder / "models").rglob("*"))
    code, output = small_project.run("twostream.cli", "train", "--jobs", "2")
    assert code == 0, output
    assert "2 trainings, 2 to do\n" in output
    for job in ("cnn3d_v2-1", "flow3d-1"):
        assert f"{job}: epoch 1/1: " in output
    assert sorted((small_project.folder / "models").rglob("*")) == before, "outputs are DVC's"
    assert small_project.repro("train_rgb", "train_flow").epochs == (0, 0)
    assert "2 trainings, 0 to do\n" in small_project.run("twostream.cli", "train")[1]


def test_a_training_that_fails_is_named_and_the_others_end(small_project):
    small_project.restore()
    small_project.set({"seed": 6, "streams": {"flow3d": {"freeze_bn": "none", "weights": "data/weights/start.pt"}}})
    small_project.repro("split")
    code, output = small_project.run("twostream.cli", "train", "--jobs", "2")
    assert code == 2
    assert "ERROR: flow3d-1: training failed; the lines above say why" in output
    assert "cnn3d_v2-1: cnn3d_v2: best epoch 1 of 1" in output and "\nTraceback" not in output


def test_trainings_with_other_arithmetic_are_named():
    check_finished([], [])
    with pytest.raises(UserError, match="rgb-1, flow-2: trained, but `dvc repro` will train again"):
        check_finished([], [Job("rgb", 1), Job("flow", 2)])
