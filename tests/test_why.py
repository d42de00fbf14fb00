"""`twostream why` on a built project of twelve clips: what it lists is what the next run does."""

from __future__ import annotations

import re
import shutil

import pytest
from small_project import SmallProject, make_clip

pytestmark = pytest.mark.slow  # the first of them builds the project


def _why(project: SmallProject, *arguments: str) -> str:
    code, output = project.run("twostream.cli", "why", *arguments)
    assert code == 0, output
    return output


@pytest.fixture
def project(small_project):
    small_project.restore()
    return small_project


def test_nothing_is_listed_after_a_run(project):
    assert _why(project) == "nothing has changed: nothing would run\n"


def test_a_parameter_is_listed_with_both_values_and_its_cost(project):
    project.set({"streams": {"flow3d": {"lr": 0.02}}})
    lines = _why(project).splitlines()
    assert lines[0] == "train_flow@flow3d-1: 1 stream to train from epoch 1 of 1"
    assert lines[1] == "  streams.flow3d.lr: 0.001 -> 0.02"
    assert lines[2] == "evaluate: known when train_flow@flow3d-1 has run"
    assert lines[-1] == "then, if their inputs change: score_flow@flow3d-1, fuse@1, events@1"


def test_stages_of_one_kind_with_the_same_changes_share_a_block(project):
    project.set({"score": {"flip": True}})
    scored = len(project.clips("val") + project.clips("test"))
    assert f"score_rgb@cnn3d_v2-1: {scored} clips to score\n  score.flip: false -> true\n" in _why(project, "score_rgb")


def test_comments_are_told_from_code(project):
    for file, text in (("views/loading.py", "\n# a comment\n"), ("views/sampling.py", "\nCHANGED = True\n")):
        path = project.folder / "twostream" / file
        path.write_text(path.read_text() + text)
    output = _why(project)
    assert output.startswith("train_rgb@cnn3d_v2-1: 1 stream to train from epoch 1 of 1\n")
    assert "\ntrain_flow@flow3d-1: 1 stream to train from epoch 1 of 1\n  2 of the changes above\n" in output
    assert "\n  twostream/views/loading.py: only comments, docstrings, annotations or messages\n" in output
    assert "\n  twostream/views/sampling.py: changed\n" in output


def test_after_comments_alone_no_later_stage_is_listed(project):
    path = project.folder / "twostream/datasets/probing.py"
    path.write_text(path.read_text() + "\n# a comment\n")
    assert _why(project) == (
        "probe: all from the cache\n"
        "  twostream/datasets/probing.py: only comments, docstrings, annotations or messages\n"
    )


def test_a_dependency_that_dvc_yaml_did_not_have_is_named(project):
    path = project.folder / "dvc.yaml"
    path.write_text(path.read_text().replace("- stages/explore.py", "- stages/explore.py\n      - README.md"))
    assert _why(project, "explore") == "explore: seconds\n  README.md: a new dependency in dvc.yaml\n"


def test_code_that_git_does_not_hold_counts_as_changed(project):
    path = project.folder / "twostream/fusion/weights.py"
    path.write_text(path.read_text() + "\nA = 1\n")
    project.repro("fuse")
    path.write_text(path.read_text() + "\n# a comment\n")
    assert "twostream/fusion/weights.py: changed; git does not have the version that ran" in _why(project, "fuse")


def test_clips_in_the_cache_and_clips_to_extract_are_counted(project):
    make_clip(project.clips("train")[0].with_name("ann_left_9.avi"), step=3, seed=70)
    output = _why(project)
    assert output.startswith("download: brings the videos again")
    assert "then, if their inputs change: probe, split, explore, extract_rgb" in output
    project.repro("probe", "split")
    assert re.search(r"^extract_flow: 1 clip to extract, 12 from the cache$", _why(project), re.MULTILINE)
    assert re.search(r"^train_flow@flow3d-1: known when extract_flow has run$", _why(project), re.MULTILINE)


def test_outputs_that_are_gone_come_from_the_cache(project):
    shutil.rmtree(project.folder / "data/rgb")
    assert _why(project, "extract_rgb") == ("extract_rgb: all from the cache\n  data/rgb: is missing\n")


def test_a_value_set_back_costs_nothing(project):
    project.set({"fusion": {"method": "weighted"}})
    project.repro("fuse")
    project.set({"fusion": {"method": "average"}})
    assert _why(project, "fuse@1").startswith("fuse@1: nothing, DVC has the outputs of an earlier run\n")


def test_an_unknown_stage_is_one_line_with_the_closest_name(project):
    code, output = project.run("twostream.cli", "why", "train_rbg")
    assert code == 2
    assert output == "ERROR: 'train_rbg' is not a stage; did you mean 'train_rgb'?\n"
    _, output = project.run("twostream.cli", "why", "nonsense")
    assert output.count("score_rgb") == 1


def test_outside_of_a_project_it_is_one_line(tmp_path, monkeypatch, capsys):
    from twostream.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["why"])
    assert capsys.readouterr().err.startswith("ERROR: ")
