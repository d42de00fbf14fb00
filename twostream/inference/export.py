"""Export the fused streams as ONNX files that take stored uint8 views, checked against PyTorch by ONNX Runtime."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from tqdm import tqdm

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason
from twostream.inference.predict import Predictor
from twostream.networks.names import CHANNELS
from twostream.streams.trained import TrainedStream

TOLERANCE = 1e-3  # the largest difference between the logits of ONNX Runtime and PyTorch
DESCRIPTION = "export.json"


@dataclass(frozen=True)
class Exported:
    """One stream's file, and the largest absolute difference of its logits from PyTorch's on the same views."""

    stream: str
    path: Path
    difference: float


def export(predictor: Predictor, out: Path) -> list[Exported]:
    """Write `<stream>.onnx` of every fused stream, and `export.json` with their inputs and the fusion.

    Each network takes `views`, uint8 [N, C, L, H, W] as stored (RGB, or flow codes x and y) for any N, normalises them
    itself and returns `logits`, float32 [N, classes]. The logits of a clip are the mean over its views. `export.json`
    is written last, so a folder that has it is complete.

    Raises:
        UserError: a network cannot be expressed in ONNX, or its logits differ by more than :data:`TOLERANCE`.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / DESCRIPTION).unlink(missing_ok=True)
        bar = tqdm(predictor.trained.items(), desc="export", unit="stream", delay=2, leave=False, disable=None)
        exported = [export_stream(name, stream, out / f"{name}.onnx") for name, stream in bar]
        with atomic_path(out / DESCRIPTION) as path:
            path.write_text(json.dumps(_description(predictor), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({reason(error)}); choose another folder") from None
    return exported


def export_stream(name: str, stream: TrainedStream, path: Path) -> Exported:
    """Write one stream's network, if its logits agree with PyTorch's on random views; errors as :func:`export`."""
    network = _NormalisedNetwork(stream).eval()
    try:
        model = _trace(network, torch.from_numpy(_random_views(stream, 2)))
    except Exception as error:  # the exporter raises any error on a network that it does not support
        raise UserError(
            f"{name}: {stream.config['model']} cannot be expressed in ONNX ({reason(error)[:300]})"
        ) from error
    data = model.SerializeToString()
    difference = max(_difference(data, network, _random_views(stream, count)) for count in (1, 3))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{name}: the ONNX file's logits are {difference:.2g} off PyTorch's, more than {TOLERANCE:g}; not written"
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Exported(name, path, difference)


class _NormalisedNetwork(torch.nn.Module):
    """A stream's network from uint8 [N, C, L, H, W] to logits [N, classes], on the CPU."""

    def __init__(self, stream: TrainedStream):
        super().__init__()
        self.network = copy.deepcopy(stream.model.network).cpu()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name, values in stream.config["normalisation"].items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1, 1))

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return self.network((views.float() - self.mean) / self.std)


def _trace(network: torch.nn.Module, views: torch.Tensor) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # they are about the exporter's own code
        program = torch.onnx.export(
            network,
            (views,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("views")},),
            input_names=["views"],
            output_names=["logits"],
            verbose=False,
        )
    assert program
    model = program.model_proto
    # The exporter's notes hold stack traces with paths of this machine.
    graphs = [model.graph, *model.functions]
    for part in [model, *graphs, *(node for graph in graphs for node in graph.node)]:
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        del value.metadata_props[:]
    return model


def _difference(data: bytes, network: torch.nn.Module, views: np.ndarray) -> float:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"views": views})
    with torch.inference_mode():
        expected = network(torch.from_numpy(views)).numpy()
    return float(np.abs(logits - expected).max())


def _random_views(stream: TrainedStream, count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *_view_shape(stream)), np.uint8)


def _view_shape(stream: TrainedStream) -> tuple[int, int, int, int]:
    size = stream.config["size"]
    return CHANNELS[stream.config["modality"]], stream.sampling.frames, size, size


def _description(predictor: Predictor) -> dict[str, Any]:
    streams = {}
    for name, stream in predictor.trained.items():
        config = stream.config
        streams[name] = {
            "file": f"{name}.onnx",
            "input": {"name": "views", "type": "uint8", "axes": "NCLHW", "shape": ["N", *_view_shape(stream)]},
            "output": {"name": "logits", "type": "float32", "shape": ["N", len(predictor.classes)]},
            **{key: config[key] for key in ("modality", "model", "sampling", "demean", "extraction")},
        }
    return {
        "classes": predictor.classes,
        "streams": streams,
        "score": predictor.score.model_dump(),
        "fusion": json.loads(predictor.fusion.to_json()),
    }
