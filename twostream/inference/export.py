"""Export: the fused streams as ONNX files that take the stored uint8 views, checked against PyTorch by ONNX Runtime."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from tqdm import tqdm

from twostream.errors import UserError
from twostream.inference.predict import Predictor
from twostream.streams.scoring import TrainedStream

TOLERANCE = 1e-3  # largest difference of logits that counts as the same network
DESCRIPTION = "export.json"


@dataclass(frozen=True)
class Exported:
    """One stream's file, and the largest absolute difference of its logits from PyTorch's on the same views."""

    stream: str
    path: Path
    difference: float


def export(predictor: Predictor, out: Path) -> list[Exported]:
    """Write `<stream>.onnx` of every fused stream, and `export.json` that says how to feed and how to fuse them.

    Each network takes `views`, uint8 [N, C, L, H, W] as they are stored (RGB, or flow codes x and y), any N; it
    normalises them itself and gives `logits`, float32 [N, classes]. The logits of a clip are the mean over its views.
    `export.json` comes last, so a folder that has it is complete.

    Raises:
        UserError: a network cannot be expressed in ONNX, or the file gives logits more than :data:`TOLERANCE` off.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / DESCRIPTION).unlink(missing_ok=True)
        bar = tqdm(predictor.trained.items(), desc="export", unit="stream", delay=2, leave=False, disable=None)
        done = [_export_stream(name, stream, out / f"{name}.onnx") for name, stream in bar]
        text = json.dumps(_description(predictor), indent=1, ensure_ascii=False) + "\n"
        _replace(out / DESCRIPTION, text.encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from None
    return done


def _export_stream(name: str, stream: TrainedStream, path: Path) -> Exported:
    network = _OnViews(stream).eval()
    views = _example_views(stream, 2)
    try:
        model = _traced(network, torch.from_numpy(views))
    except Exception as error:  # whatever the exporter meets in a network it does not know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: {stream.config['model']} cannot be expressed in ONNX ({reason[:300]})") from error
    data = model.SerializeToString()
    difference = max(_difference(data, network, _example_views(stream, count)) for count in (1, 3))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{name}: the ONNX file's logits are {difference:.2g} off PyTorch's, more than {TOLERANCE:g}; not written"
        )
    _replace(path, data)
    return Exported(name, path, difference)


class _OnViews(torch.nn.Module):
    """A stream's network from uint8 [N, C, L, H, W] to logits [N, classes], on the processor."""

    def __init__(self, stream: TrainedStream):
        super().__init__()
        self.network = copy.deepcopy(stream.model.network).cpu()
        for name, values in stream.config["normalisation"].items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1, 1))

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return self.network((views.float() - self.mean) / self.std)


def _traced(network: torch.nn.Module, views: torch.Tensor) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter's own code
        program = torch.onnx.export(
            network,
            (views,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("views")},),
            input_names=["views"],
            output_names=["logits"],
            verbose=False,
        )
    return _plain(program.model_proto)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes: they hold stack traces with the paths of this machine."""
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


def _example_views(stream: TrainedStream, count: int) -> np.ndarray:
    shape = (count, *_view_shape(stream))
    return np.random.default_rng(count).integers(0, 256, shape, np.uint8)


def _view_shape(stream: TrainedStream) -> tuple[int, int, int, int]:
    size = stream.config["size"]
    return {"rgb": 3, "flow": 2}[stream.config["modality"]], stream.sampling.frames, size, size


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


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
