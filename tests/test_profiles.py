import subprocess
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from twostream.errors import UserError
from twostream.params import load_params, parse_params
from twostream.profiles import complete, edits, load_profile, profile_text, profiles, read_yaml, write_params

NAMES = list(profiles())


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_is_valid_and_is_what_its_text_holds(name):
    parse_params(load_profile(name))
    assert yaml.safe_load(profile_text(name)) == load_profile(name)


def test_the_committed_parameters_are_those_of_the_demo():
    assert (ROOT / "params.yaml").read_text() == profile_text("demo")


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_repeats_no_value_of_the_base(name):
    def repeated(base: dict, values: dict, key: str) -> list[str]:
        found = []
        for part, value in values.items():
            if isinstance(value, dict):
                found += repeated(base.get(part, {}), value, f"{key}{part}.")
            elif base.get(part) == value:
                found.append(key + part)
        return found

    where = ("dataset.name", "dataset.source")  # worth reading where the profile starts
    values = read_yaml(ROOT / "profiles" / f"{name}.yaml")
    assert [key for key in repeated(read_yaml(ROOT / "profiles" / "base.yaml"), values, "") if key not in where] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_a_written_profile_says_what_it_does(name):
    """The first time a key appears, it, or the mapping on its line, has a comment."""
    explained, bare = set(), []
    for line in profile_text(name).splitlines():
        key, colon, rest = line.strip().partition(":")
        if not colon or key.startswith(("#", "-")):
            continue
        if "#" in rest:
            explained.add(key)
        elif rest.strip() and key not in explained:
            bare.append(key)
    assert not bare


def test_comments_of_a_profile_replace_those_of_the_base_and_sections_stay_apart():
    text = profile_text("folder")
    assert "# a linear classifier on a frozen network" in text and "# ResNet-50 on RGB frames" not in text
    assert "\n\nscore:\n" in text and "\n\n\n" not in text


def test_a_stream_that_the_base_does_not_know_is_completed_by_its_modality():
    streams = {"depth": {"size": 32}, "motion": {"size": 48}}
    values = complete({"train": {"rgb": ["depth"], "flow": ["motion"]}, "streams": streams})
    base = read_yaml(ROOT / "profiles" / "base.yaml")["streams"]
    assert values["streams"] == {"depth": {**base["spatial"], "size": 32}, "motion": {**base["temporal"], "size": 48}}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_source_in_the_home_folder_is_written_in_full(folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    write_params("folder", ["dataset.source=~/clips"], force=False)
    assert read_yaml("params.yaml")["dataset"]["source"] == "/home/ann/clips"


def test_settings_change_values_and_keep_the_comments(folder):
    write_params("hmdb51", ["flow.bound=8.0", "train.rgb=[spatial]", "streams.spatial.lr=1e-3"], force=False)
    params = load_params("params.yaml")
    assert (params.flow.bound, params.train.rgb, params.streams["spatial"].lr) == (8.0, ["spatial"], 0.001)
    assert list(params.streams) == ["spatial", "temporal"]
    assert "bound: 8.0                  # pixels per frame" in (folder / "params.yaml").read_text()


@pytest.mark.parametrize(
    "setting, words",
    [
        ("flow.methd=dis", "flow.methd is not a parameter; did you mean 'method'"),
        ("flow.bound=-1", "flow.bound: -1 - must be greater than 0"),
        ("flow.bound", "must be key=value"),
        ("train.rgb=[spatial", "not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(folder, setting, words):
    with pytest.raises(UserError) as caught:
        write_params("demo", [setting], force=False)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "params.yaml").exists()


def test_an_unknown_profile_is_one_line_that_lists_the_profiles():
    with pytest.raises(UserError, match="no profile 'hmdb'; choose from demo, folder, folder-quick, hmdb51"):
        load_profile("hmdb")


@pytest.mark.slow
def test_edits_are_overwritten_only_by_force(folder):
    params = folder / "params.yaml"
    write_params("demo", [], force=False)
    write_params("folder", [], force=False)  # what a profile wrote can be written again
    params.write_text(params.read_text().replace("bound: 8.0", "bound: 9.0"))
    with pytest.raises(UserError, match="git does not hold.*--force"):
        write_params("demo", [], force=False)
    assert "bound: 9.0" in params.read_text()
    write_params("demo", [], force=True)
    assert params.read_text() == profile_text("demo")


def test_edits_that_git_holds_are_overwritten(folder):
    (folder / "params.yaml").write_text(profile_text("demo", ["seed=7"]))
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "mine"]):
        subprocess.run(["git", *command], check=True)
    write_params("demo", [], force=False)
    assert (folder / "params.yaml").read_text() == profile_text("demo")


def test_edits_are_listed_against_the_profile_that_the_file_was_written_from_or_another(folder):
    write_params("notebooks", ["seed=3", "streams.spatial.augment.flip=true"], force=False)
    assert edits(None).splitlines() == [
        "params.yaml differs from profile notebooks",
        "  seed                          0 -> 3",
        "  streams.spatial.augment.flip  false -> true",
    ]
    assert "flow.frames" in edits("hmdb51")


def test_edits_of_a_file_without_a_header_are_against_the_closest_profile(folder):
    (folder / "params.yaml").write_text(yaml.safe_dump({**load_profile("ucf101"), "seed": 5}))
    assert edits(None).splitlines() == ["params.yaml differs from profile ucf101", "  seed  0 -> 5"]


def test_a_tag_in_yaml_runs_nothing(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(f'seed: !!python/object/apply:os.mkdir ["{tmp_path / "made"}"]\n')
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(path)
    assert not (tmp_path / "made").exists()


BOMB = "\n".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9) if n else 1}]" for n in range(30))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{BOMB}\nseed: *b29\n", "its aliases stand for more than 100,000 values"),
        ("seed: &a [*a]\n", "its aliases stand for more than"),
        (f"seed: {'[' * 20000}\n", "nested too deep"),
        (f"seed: {'9' * 5000}\n", "not valid YAML"),
    ],
)
def test_yaml_that_would_fill_the_memory_is_one_line(tmp_path, text, words):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_yaml(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)
