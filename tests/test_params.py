import copy

import pytest
import yaml

from twostream.errors import UserError
from twostream.params import load_params, parse_params


def _changed(values: dict, key: str, value: object) -> dict:
    values = copy.deepcopy(values)
    *path, last = key.split(".")
    section = values
    for part in path:
        section = section[part]
    section[last] = value
    return values


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("flow.methd", "dis", ["flow.methd", "not a parameter", "'method'"]),
        ("flow.method", "brox", ["flow.method", "'brox'", "'tvl1'", "'farneback'", "'dis' or 'raft'"]),
        (
            "streams.spatial.weights",
            "/elsewhere/rgb.pt",
            ["streams.spatial.weights", "'/elsewhere/rgb.pt'", "ln -s /elsewhere/rgb.pt data/weights/"],
        ),
        ("streams.spatial.weights", "rgb.pth", ["'rgb.pth' is not in data/weights/", "write data/weights/rgb.pth"]),
        ("dataset.table", "/elsewhere/t.csv", ["table", "data/tables/", "write data/tables/t.csv"]),
        ("flow.device", "gpu", ["flow.device", "'gpu'", "'auto', 'cpu' or 'cuda'"]),
        ("flow.tvl1.preset", "best", ["flow.tvl1.preset", "'best'", "'fast', 'balanced' or 'accurate'"]),
        ("flow.tvl1.lambda", 0, ["flow.tvl1.lambda", "0", "greater than 0"]),
        ("flow.tvl1.lamda", 0.1, ["flow.tvl1.lamda", "not a parameter", "did you mean 'lambda'"]),
        ("flow.tvl1.warps", 51, ["flow.tvl1.warps", "51", "integer from 1 to 50"]),
        ("flow.tvl1.warps", [], ["flow.tvl1.warps", "[]", "integer from 1 to 50"]),
        ("flow.tvl1.iterations", [10, 2.5], ["flow.tvl1.iterations", "[10, 2.5]", "integer from 1 to 500"]),
        ("flow.tvl1.iterations", True, ["flow.tvl1.iterations", "True", "integer from 1 to 500"]),
        ("streams.spatial.demean", True, ["streams.spatial.demean", "reads rgb", "false"]),
        ("flow.tvl1.median", 4, ["flow.tvl1.median", "4", "1, 3 or 5"]),
        ("flow.raft.model", "tiny", ["flow.raft.model", "'tiny'", "'small' or 'large'"]),
        ("streams.spatial.lr", "fast", ["streams.spatial.lr", "'fast'", "number"]),
        ("streams.spatial.lr", -1.0, ["streams.spatial.lr", "-1.0", "greater than 0"]),
        ("streams.spatial.lr", float("nan"), ["streams.spatial.lr", "finite"]),
        ("streams.spatial.model", "resnet51", ["streams.spatial.model", "'resnet51'", "did you mean"]),
        ("streams.spatial.lr_new", 0, ["streams.spatial.lr_new", "0", "greater than 0"]),
        ("streams.spatial.dropout", 1.0, ["streams.spatial.dropout", "1.0", "less than 1"]),
        ("streams.spatial.mixup", -0.2, ["streams.spatial.mixup", "-0.2", "greater than or equal to 0"]),
        ("streams.spatial.freeze_bn", "some", ["streams.spatial.freeze_bn", "'some'", "'none', 'partial' or 'all'"]),
        ("streams.spatial.freeze_bn", "partial", ["streams.spatial", "freeze_bn", "weights is none"]),
        ("streams.spatial.augment.jitter", -1.0, ["streams.spatial.augment.jitter", "-1.0"]),
        ("streams.spatial.augment.jiter", 0.5, ["streams.spatial.augment.jiter", "did you mean 'jitter'"]),
        ("streams.temporal.demean", 1, ["streams.temporal.demean", "1", "boolean"]),
        ("streams.spatial.epochs", 2.5, ["streams.spatial.epochs", "2.5", "integer"]),
        ("dataset.splits", [], ["dataset.splits"]),
        ("dataset.splits", [1, 1], ["dataset.splits", "once"]),
        ("dataset.splits", [4], ["splits", "1, 2 and 3"]),
        ("dataset.group_pattern", "(", ["dataset.group_pattern", "regular expression"]),
        ("dataset.demo.width", 33, ["dataset.demo.width", "even"]),
        ("fusion.streams", ["spatial", "depth"], ["fusion.streams", "'depth'", "temporal"]),
        ("train.rgb", ["spatial", "fusion"], ["'fusion'", "rename"]),
        ("train.flow", ["spatial"], ["'spatial'", "twice"]),
        ("train.flow", ["motion"], ["'motion'", "not among streams"]),
        (
            "streams.spatial.sampling",
            {"mode": "uniform", "segments": 1, "frames": 8, "stride": 2},
            ["streams.spatial.sampling", "stride must be 1"],
        ),
        ("seed", True, ["seed", "True", "integer"]),
        ("extra", 1, ["extra", "not a parameter"]),
    ],
)
def test_a_wrong_value_is_one_line_with_key_value_and_what_is_allowed(demo_values, key, value, words):
    with pytest.raises(UserError) as caught:
        parse_params(_changed(demo_values, key, value), "params.yaml")
    message = str(caught.value)
    assert message.startswith("params.yaml: ") and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("weights", ["none", "pretrained", "IMAGENET1K_V1", "a1_in1k", "data/weights/rgb.pt"])
def test_weights_are_a_word_a_tag_or_a_file_where_dvc_sees_it(demo_values, weights):
    params = parse_params(_changed(demo_values, "streams.spatial.weights", weights))
    assert params.streams["spatial"].weights == weights


@pytest.mark.parametrize("weights, right", [("raft.pth", False), ("data/weights/raft.pth", True), ("pretrained", True)])
def test_the_weights_of_raft_too_where_it_is_used(demo_values, weights, right):
    values = _changed(demo_values, "flow.raft.weights", weights)
    parse_params(values)
    values = _changed(values, "flow.method", "raft")
    if right:
        parse_params(values)
    else:
        with pytest.raises(UserError, match=r"flow\.raft\.weights: 'raft\.pth' is not in data/weights/"):
            parse_params(values)


@pytest.mark.parametrize("value", [None, 3, [1, 2, 3], [500]])
def test_the_iterations_of_tvl1_are_one_number_or_one_per_level(demo_values, value):
    assert parse_params(_changed(demo_values, "flow.tvl1.iterations", value)).flow.tvl1.iterations == value


def test_a_file_from_before_a_key_existed_gets_the_default_with_one_line_that_says_so(tmp_path, demo_values, capsys):
    values = copy.deepcopy(demo_values)
    del values["flow"]["bound"], values["streams"]["temporal"]["mixup"], values["report"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    params = load_params(tmp_path / "p.yaml")
    assert (params.flow.bound, params.streams["temporal"].mixup, params.report.examples) == (20.0, 0.0, 6)
    said = capsys.readouterr().err
    assert said.startswith("WARNING: ") and said.count("\n") == 1
    for words in ("flow.bound: 20.0", "streams.temporal.mixup: 0.0", 'report: {"examples": 6}', "profiles/base.yaml"):
        assert words in said


def test_a_complete_file_is_read_without_a_word(tmp_path, demo_values, capsys):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(demo_values))
    assert load_params(tmp_path / "p.yaml") == parse_params(demo_values)
    assert capsys.readouterr().err == ""


def test_several_mistakes_are_counted(demo_values):
    values = _changed(_changed(demo_values, "seed", -1), "flow.bound", 0)
    with pytest.raises(UserError, match=r"\(and 1 more\)"):
        parse_params(values)


@pytest.mark.parametrize("text, words", [("", "mapping"), ("a: [", "not valid YAML"), ("- 1", "mapping")])
def test_a_file_without_parameters_is_an_error_in_one_line(tmp_path, text, words):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_params(tmp_path / "p.yaml")


def test_a_missing_file_says_where_to_get_one(tmp_path):
    with pytest.raises(UserError, match="twostream profile"):
        load_params(tmp_path / "none.yaml")


def test_exponents_without_a_dot_are_numbers_as_they_are_to_dvc(tmp_path, demo_values):
    text = yaml.safe_dump(_changed(demo_values, "streams.spatial.lr", 0.123)).replace("0.123", "1e-3")
    (tmp_path / "p.yaml").write_text(text)
    assert load_params(tmp_path / "p.yaml").streams["spatial"].lr == 0.001


@pytest.mark.parametrize(
    "text, words",
    [
        ("seed: 1\nrgb:\n  short_side: 240\nseed: 2\n", "seed is in line 1 and again in line 4; remove one"),
        ("rgb:\n  short_side: 240\n\n  short_side: 120\n", "rgb.short_side is in line 2 and again in line 4"),
        ("a: [{b: 1, b: 2}]\n", "b is in line 1 and again in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(tmp_path, text, words):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_params(tmp_path / "p.yaml")


@pytest.mark.parametrize("written", ["~/clips", "$HOME/clips", "${HOME}/clips"])
def test_the_home_folder_is_expanded_in_paths(tmp_path, demo_values, monkeypatch, capsys, written):
    monkeypatch.setenv("HOME", "/home/ann")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(_changed(demo_values, "dataset.source", written)))
    assert load_params(tmp_path / "p.yaml").dataset.source == "/home/ann/clips"
    warning = capsys.readouterr().err
    assert f"{written} is /home/ann/clips here" in warning and "write the full path" in warning
    with pytest.raises(UserError, match="ln -s /home/ann/w.pt data/weights/"):
        parse_params(_changed(demo_values, "streams.spatial.weights", "~/w.pt"))


@pytest.mark.parametrize("written", ["$HOMEWORK/clips", "clips/~", "a$HOME"])
def test_other_paths_stay(demo_values, written):
    assert parse_params(_changed(demo_values, "dataset.source", written)).dataset.source == written
