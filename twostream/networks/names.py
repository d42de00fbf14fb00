"""Which model names exist, without importing torch: parameters are checked before anything slow is imported."""

from __future__ import annotations

import difflib
from pathlib import Path

FIXED = ("motion_histogram",)  # nothing to learn but the last layer
IMAGE = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# 3D networks and their modules.
VOLUME = {"cnn3d_v1": "cnn3d", "cnn3d_v2": "cnn3d", "flow3d": "flow3d", "i3d": "i3d", "i3d_4f": "i3d"}
VOLUME |= {name: name for name in FIXED}
VIDEO = (
    *("video/r3d_18", "video/mc3_18", "video/r2plus1d_18", "video/s3d"),
    *("video/mvit_v2_s", "video/swin3d_t", "video/swin3d_s", "video/swin3d_b"),
)
TIMM = "timm/"
INFLATED = "inflated/"
HF = "hf/"  # Hugging Face's transformers
KNOWN = (*VOLUME, *IMAGE, *VIDEO, *(INFLATED + name for name in IMAGE))
CHANNELS = {"rgb": 3, "flow": 2}  # of a stored frame; flow is x and y
MODALITIES = tuple(CHANNELS)


def module_of(name: str) -> str:
    """Return the module of `twostream.networks` that builds a model, or what is inflated for it."""
    backbone = name.removeprefix(INFLATED)
    if backbone.startswith(TIMM):
        return "timm_backbones"
    if name.startswith(HF):
        return "huggingface"
    return "resnet" if backbone in IMAGE else VOLUME.get(backbone, "torchvision_video")


def network_files(name: str, weights: str) -> list[Path]:
    """Return the modules that `registry.create_model` loads by name for a network, without what they import.

    They are loaded by name so that a new network, or an edit to another one, leaves this one's digest unchanged.
    """
    parts = [module_of(name)]
    if name.startswith(INFLATED):
        parts.append("inflate")
    if weights != "none":
        parts.append("weights")
    return [Path(__file__).with_name(f"{part}.py") for part in parts]


def hf_folder(name: str) -> Path | None:
    """Return the folder that a model of `transformers` is read from, None for one of the hub and for other models."""
    path = Path(name.removeprefix(HF))
    is_folder = name.startswith(HF) and (path.is_absolute() or len(path.parts) > 2 or path.is_dir())
    return path if is_folder else None


def check_model_name(name: str, modality: str) -> None:
    """Raise ValueError, one line with a remedy, where no such model or modality exists.

    `timm/<name>` is any 2D backbone of timm, which is looked up when the model is built, since timm is slow to import;
    `video/<name>` is a torchvision video network; `inflated/<name>` is a 3D network made of a torchvision ResNet or,
    as `inflated/timm/<name>`, of a convolutional backbone of timm; `hf/<folder or id>` is a network of Hugging Face's
    transformers. Every model takes both modalities.
    """
    if modality not in MODALITIES:
        raise ValueError(f"'{modality}' is not a modality; choose from {', '.join(MODALITIES)}")
    backbone = name.removeprefix(INFLATED)
    if name in KNOWN or (backbone.startswith(TIMM) and backbone != TIMM) or (name.startswith(HF) and name != HF):
        return
    close = difflib.get_close_matches(name, KNOWN, n=1)
    listed = ", ".join((*VOLUME, *IMAGE, *VIDEO))
    every = (
        f"choose from {listed}, {TIMM}<name of a timm model>, {INFLATED}<name of a ResNet or timm model> or "
        f"{HF}<folder or id of a transformer>"
    )
    hint = f"did you mean '{close[0]}'?" if close else every
    raise ValueError(f"'{name}' is not a model; {hint}")
