import subprocess

import pytest

from twostream.core.workspace import absent_in_experiments


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "project" / "mine" / "wave").mkdir(parents=True)
    (tmp_path / "project" / "mine" / "wave" / "a.avi").write_bytes(b"x")
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    subprocess.run(["git", "init", "-q"], check=True)
    return tmp_path / "project"


def test_a_relative_source_outside_the_project_is_named_with_its_absolute_path(project):
    message = absent_in_experiments("../clips")
    assert message.endswith(f"write {project.parent / 'clips'}") and "\n" not in message
    assert absent_in_experiments(str(project.parent / "clips")) == ""


@pytest.mark.parametrize("source", ["mine", "./mine/"])
def test_an_untracked_source_inside_is_to_be_added(project, source):
    assert absent_in_experiments(source).endswith("run `dvc add mine` and `git add mine.dvc`")


@pytest.mark.parametrize("tracked", ["mine", "mine.dvc"])
@pytest.mark.parametrize("source", ["mine", "mine/wave", "./mine/"])
def test_a_source_that_git_or_dvc_tracks_is_there(project, source, tracked):
    (project / "mine.dvc").write_text("outs: []")
    assert absent_in_experiments(source)  # the file of DVC is not enough: git must know it
    subprocess.run(["git", "add", tracked], check=True)
    assert absent_in_experiments(source) == ""


def test_a_source_that_is_not_there_is_another_matter(project):
    assert absent_in_experiments("nowhere") == ""
