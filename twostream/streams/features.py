"""The cache of features from frozen networks: shared by splits, seeds, heads and sweeps.

Nothing here imports torch before it is known that something must be computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twostream.core import cluster
from twostream.core.cache import FileCache, RecordCache, code_digest, key_of
from twostream.core.device import device_of
from twostream.core.files import sha256_of
from twostream.core.imports import import_closure
from twostream.networks.names import hf_folder, network_files
from twostream.params import Runtime, Stream
from twostream.streams.config import head_protocol
from twostream.streams.rows import Compute, count_missing_rows, rows_of_clips
from twostream.views.examples import Example

if TYPE_CHECKING:
    import torch

    from twostream.networks.registry import SegmentConsensus

_INPUT = {"model", "size", "sampling", "demean", "input"}


class FrozenStream:
    """The frozen network of a stream with `tune: head`, built when something must be computed with it.

    Attributes:
        key: of the features in the cache: network, weights, input and code, but no split, seed, classes or head.
        mirrored: whether the features of a clip are the mean of its own and of those of its mirror image. So are those
            of flow, unless `augment.flip` is off: published networks have seen mirrored frames in training, but no
            flow. Out of fold on 150 real clips that lowers the log-loss of a head on flow from 0.309 to 0.266, and
            changes nothing on frames (docs/accuracy.md).
    """

    def __init__(self, name: str, stream: Stream, modality: str, runtime: Runtime, cache: FileCache):
        self._name, self._stream, self._modality, self._runtime, self._cache = name, stream, modality, runtime, cache
        files = [Path(__file__).with_name("frozen.py"), *network_files(stream.model, stream.weights)]
        self.mirrored = modality == "flow" and stream.augment.flip
        self.key = key_of(
            stream=stream.model_dump(include=_INPUT),
            modality=modality,
            mirrored=self.mirrored,
            weights=weights_identity(stream.model, stream.weights),
            device=device_of(runtime.accelerator),
            torch=version("torch"),
            code=code_digest(*import_closure(files)),
        )
        self._built: SegmentConsensus | None = None

    def features(self, examples: Sequence[Example]) -> np.ndarray:
        """Return the features of each clip, float32 [clips, F]."""

        def compute(todo: list[Example]) -> Any:
            import torch

            device = torch.device(device_of(self._runtime.accelerator))
            if device.type == "cpu" and cluster.scheduler():
                return cluster.spread(partial(_row, self), list(enumerate(todo)), f"features {self._name}")
            return enumerate(self._compute(device, todo, self._runtime.workers))

        return cached_features(self._cache.root, self._name, self.key, examples, compute)

    def count_missing(self, examples: Sequence[Example]) -> int:
        """Return of how many clips :meth:`features` would compute the features."""
        return count_missing_rows(features_file(self._cache.root, self.key), examples)

    def facts(self) -> dict[str, Any]:
        """Return the network's `normalisation`, and as `source` what `registry.weights_source` gives."""
        known = RecordCache(features_file(self._cache.root, self.key))
        if "network" not in known:
            from twostream.networks.registry import weights_source

            network = self._network()
            source = weights_source(self._stream.model, self._stream.weights)
            known.add("network", {"source": source, "normalisation": network.normalisation})
        return known["network"]

    def write_body(self, path: Path) -> None:
        """Write the network's weights without its classifier."""

        def build(file: Path) -> None:
            from twostream.streams.frozen import body_bytes

            file.write_bytes(body_bytes(self._network()))

        self._cache.make(f"{self.key}-model.pt", path, build)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_built": None}  # a worker of a cluster builds its own

    def row(self, example: Example) -> np.ndarray:
        """Return the features of a clip, float32 [F], computed in this process on the CPU."""
        import torch

        (row,) = self._compute(torch.device("cpu"), [example], None)
        return row

    def _compute(self, device: torch.device, examples: list[Example], workers: int | None) -> Iterator[np.ndarray]:
        from twostream.streams.frozen import compute_features

        network, protocol = self._network().to(device), head_protocol(self._stream.sampling, self.mirrored)
        return compute_features(network, self._stream, protocol, network.normalisation, device, examples, workers)

    def _network(self) -> SegmentConsensus:
        if self._built is None:
            from twostream.streams.network import build_network

            # The classifier is not used, so its number of classes does not matter.
            self._built = build_network(self._stream, self._modality, 2, self._stream.weights).eval()
        return self._built


_on_worker: dict[str, FrozenStream] = {}  # on a worker of a cluster: the stream in use, with its network


def _row(stream: FrozenStream, item: tuple[int, Example]) -> tuple[int, np.ndarray]:
    """Return a clip's place and features; runs on a worker of a cluster."""
    if stream.key not in _on_worker:
        _on_worker.clear()
        _on_worker[stream.key] = stream
    return item[0], _on_worker[stream.key].row(item[1])


def cached_features(root: Path, name: str, key: str, examples: Sequence[Example], compute: Compute) -> np.ndarray:
    """Return the features of each clip, float32 [clips, F]; `compute` as for :func:`rows.rows_of_clips`."""
    features, computed = rows_of_clips(features_file(root, key), examples, compute, f"features {name}")
    print(f"{name}: {len(examples)} clips, {computed} seen by the network, {len(examples) - computed} from the cache")
    return features


def features_file(root: Path, key: str) -> Path:
    """Return the file of the features in the cache."""
    return root / "features" / f"{key}.jsonl"


def weights_identity(model: str, weights: str) -> str:
    """Return what identifies a network's weights: the SHA-256 of their files, or the name of published ones."""
    if folder := hf_folder(model):
        files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors"))
        return key_of(weights=weights, files=[(path.name, sha256_of(path)) for path in files])
    return sha256_of(weights) if os.path.isfile(weights) else weights
