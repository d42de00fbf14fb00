import subprocess
import sys

import pytest

from twostream.networks.names import check_model_name


@pytest.mark.parametrize(
    "name",
    [
        "cnn3d_v1",
        "cnn3d_v2",
        "flow3d",
        "resnet50",
        "video/r3d_18",
        "timm/anything",
        "inflated/resnet34",
        "inflated/timm/any",
    ],
)
@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_known_names_pass_for_both_modalities(name, modality):
    check_model_name(name, modality)


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match="'resnet5' is not a model; did you mean 'resnet50'"):
        check_model_name("resnet5", "rgb")


def test_a_name_like_no_other_gets_the_list():
    with pytest.raises(ValueError, match=r"choose from cnn3d_v1.*timm/"):
        check_model_name("qqq", "rgb")


@pytest.mark.parametrize(
    "name",
    ["timm/", "video/", "video/x", "", "inflated/", "inflated/timm/", "inflated/flow3d", "inflated/video/r3d_18"],
)
def test_a_family_without_a_member_is_not_a_model(name):
    with pytest.raises(ValueError, match="is not a model"):
        check_model_name(name, "rgb")


def test_an_unknown_modality_is_refused():
    with pytest.raises(ValueError, match="'depth' is not a modality"):
        check_model_name("resnet50", "depth")


def test_checking_a_name_imports_no_torch():
    code = "import sys; from twostream.networks.names import check_model_name; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
