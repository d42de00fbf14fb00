import json
import shutil

import pytest
from conftest import ROOT

from twostream.cli import main


def test_models_lists_every_network_with_its_parameters(capsys):
    main(["models", "--json"])
    rows = json.loads(capsys.readouterr().out)
    counts = {(row["name"], row["modality"]): row["parameters"] for row in rows}
    assert counts["cnn3d_v1", "rgb"] == 1_125_555
    assert counts["cnn3d_v2", "rgb"] == 325_875
    assert counts["resnet50", "rgb"] == 23_612_531
    assert {"name", "modality", "input", "parameters"} <= set(rows[0])


def test_models_counts_for_the_asked_number_of_classes(capsys):
    main(["models", "--classes", "101", "--json"])
    counts = {(row["name"], row["modality"]): row["parameters"] for row in json.loads(capsys.readouterr().out)}
    assert counts["cnn3d_v1", "rgb"] == 1_125_555 + 50 * 257


def test_models_prints_a_table(capsys):
    main(["models"])
    assert "cnn3d_v1" in capsys.readouterr().out


def test_check_says_that_a_profile_is_good(capsys):
    main(["check", str(ROOT / "profiles" / "hmdb51.yaml")])
    assert "good" in capsys.readouterr().out


def test_check_names_file_key_and_remedy_and_exits_with_2(tmp_path, capsys):
    shutil.copy(ROOT / "profiles" / "demo.yaml", tmp_path / "p.yaml")
    text = (tmp_path / "p.yaml").read_text().replace("method: tvl1", "method: tvl2")
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(tmp_path / "p.yaml")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("ERROR: ") and "flow.method: 'tvl2'" in error and error.count("\n") == 1


def test_results_without_a_run_says_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["results", "--metrics", str(tmp_path / "none.json")])
    assert stopped.value.code == 2
    assert "dvc repro" in capsys.readouterr().err
