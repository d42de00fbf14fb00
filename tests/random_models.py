"""A model folder with random weights, for the tests of everything that predicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from twostream.fusion.methods import fit_fusion, write_fusion
from twostream.fusion.scores import Scores
from twostream.networks.registry import create_model

CLASSES = ["fall", "wave & 'roll'"]
FARNEBACK = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
FLOW = {"method": "farneback", "device": "cpu", "frames": 0, "bound": 8.0, "jpeg_quality": 92}
FLOW["farneback"] = FARNEBACK
STREAMS = {
    "spatial": ("cnn3d_v2", "rgb", {"mode": "segments", "segments": 3, "frames": 4, "stride": 2}),
    "temporal": ("flow3d", "flow", {"mode": "segments", "segments": 1, "frames": 5, "stride": 1}),
}


def make_models(folder: Path, classes: list[str] = CLASSES, flow_frames: int = 0, mode: str = "segments") -> Path:
    """Write a model folder like the pipeline's, with random weights; flow is extracted with `flow_frames`."""
    for name, (model, modality, sampling) in STREAMS.items():
        sampling = sampling if mode == "segments" else {**sampling, "mode": mode, "stride": 1}
        torch.manual_seed(3)
        network = create_model(model, modality=modality, classes=len(classes), frames=sampling["frames"], input_size=24)
        _make_sensitive(network, (8, 1, 3 if modality == "rgb" else 2, sampling["frames"], 24, 24))
        extraction = {"short_side": 40, "jpeg_quality": 90}
        if modality == "flow":
            extraction = {**FLOW, "short_side": 48, "frames": flow_frames}
        config = {
            "stream": name,
            "modality": modality,
            "model": model,
            "weights": "none",
            "weights_sha256": None,
            "classes": classes,
            "size": 24,
            "dropout": 0.0,
            "sampling": sampling,
            "demean": modality == "flow",
            "normalisation": network.normalisation,
            "extraction": extraction,
        }
        (folder / f"{name}-1").mkdir(parents=True)
        torch.save(network.state_dict(), folder / f"{name}-1" / "model.pt")
        (folder / f"{name}-1" / "config.json").write_text(json.dumps(config))
    none = Scores(np.array([]), np.array([], int), np.array(classes), np.array([]), np.zeros((0, len(classes))))
    write_fusion(folder / "fusion-1.json", fit_fusion("average", dict.fromkeys(STREAMS, none), step=1, c=1, seed=0))
    return folder


def _make_sensitive(network: torch.nn.Module, shape: tuple[int, ...]) -> None:
    """Set batch statistics and enlarge the classifier: an untrained network gives all inputs the same logits."""
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(torch.randn(shape))
        network.network.classifier.weight *= 40
    network.eval()
