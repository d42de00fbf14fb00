"""A published Kinetics network as a model folder, so that videos can be predicted before anything is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from twostream.errors import UserError
from twostream.networks.names import VIDEO
from twostream.profiles import profile_text

NETWORKS = ("i3d", *VIDEO)
_STORED_SIDE = 256  # pixels


def write_pretrained(name: str, folder: Path) -> Path:
    """Write a model folder of a network for the 400 classes of Kinetics, and its parameter file beside it.

    Args:
        name: one of `NETWORKS`; weights that are not on this machine are fetched.
        folder: an empty folder.

    Returns:
        The model folder.

    Raises:
        UserError: no such network, or its weights cannot be fetched.
    """
    import torch

    from twostream.fusion.methods import Fusion, write_fusion
    from twostream.networks.registry import create_model, usual_input, weights_source

    if name not in NETWORKS:
        raise UserError(f"--pretrained: {name!r} has no Kinetics weights here; choose from {', '.join(NETWORKS)}")
    classes = kinetics_classes()
    most, _, size = usual_input(name, "rgb")
    frames = min(most, 32)
    model = create_model(
        name, modality="rgb", classes=len(classes), frames=frames, weights="pretrained", input_size=size
    )
    stream, source = name.rpartition("/")[2], weights_source(name, "pretrained")
    print(f"{name}: weights pretrained, licence: {source['licence'] or 'not stated'}", file=sys.stderr)
    config = {
        **{"stream": stream, "modality": "rgb", "model": name, "classes": classes, "size": size, "dropout": 0.0},
        **{"weights": "pretrained", "weights_sha256": source["sha256"], "licence": source["licence"], "demean": False},
        # Of 64 frames every second one: half the time, and hardly another answer.
        "sampling": {"mode": "segments", "segments": 1, "frames": frames, "stride": most // frames},
        "normalisation": model.normalisation,
        "extraction": {"short_side": _STORED_SIDE, "jpeg_quality": 95},
    }
    models = folder / "models"
    (models / f"{stream}-1").mkdir(parents=True)
    torch.save(model.state_dict(), models / f"{stream}-1" / "model.pt")
    (models / f"{stream}-1" / "config.json").write_text(json.dumps(config))
    write_fusion(models / "fusion-1.json", Fusion("average", (stream,), tuple(classes), np.ones(1), np.ones(1)))
    score = ["score.segments=2", "score.crops=1", "score.flip=false"]
    (folder / "params.yaml").write_text(profile_text("folder", score), encoding="utf-8")
    return models


def kinetics_classes() -> list[str]:
    """Return the names of the 400 classes of Kinetics-400, in the order of all published networks: the alphabet's."""
    from torchvision.models.video import S3D_Weights

    return list(S3D_Weights.DEFAULT.meta["categories"])
