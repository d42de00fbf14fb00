"""Parameters, tables, scores, models and weights that are damaged, wrong or made to do harm."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from torture.ledger import Case, Wrong, check_no_traceback, check_refused
from torture.project import Project

COMMANDS = {
    "params.yaml": ("stages.probe",),
    "data/clips.csv": ("stages.extract_rgb",),
    "data/scores/split1/flow3d.npz": ("stages.fuse", "--split", "1"),
    "models/cnn3d_v2-1/model.pt": ("stages.score", "--stream", "cnn3d_v2", "--split", "1"),
    "models/cnn3d_v2-1/config.json": ("stages.score", "--stream", "cnn3d_v2", "--split", "1"),
    "data/weights/start.pt": ("stages.train", "--stream", "cnn3d_v2", "--split", "1"),
}
WRITTEN = ("data/rgb", "data/fused/split1.npz", "data/scores/split1/cnn3d_v2.npz", "models/cnn3d_v2-1/history.json")


class Trap:
    """Leaves a file where its pickle is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("trapped"),)


def cases(project: Project, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield every made-up case and `count` random damages of each file."""
    project.restore("built")
    for name in COMMANDS:
        content = (project.folder / name).read_bytes()
        made_up = MADE_UP[name](content)
        for kind, data in made_up.items():
            yield Case(f"hostile {name}", kind, lambda n=name, d=data: _check(project, n, d, is_wrong=True))
        for _ in range(count):
            kind, data = _damaged(content, rng)
            yield Case(f"damaged {name}", kind, lambda n=name, d=data: _check(project, n, d, is_wrong=False))


def _check(project: Project, name: str, content: bytes, is_wrong: bool) -> None:
    """Run a stage on the file: it is refused in one line, or (if damage spared what counts) changes nothing."""
    file = project.folder / name
    original = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    before = _outputs(project)
    try:
        code, output = project.run(*COMMANDS[name])
    finally:
        file.unlink(missing_ok=True)
        file.write_bytes(original)
    if (project.folder / "trapped").exists():
        (project.folder / "trapped").unlink()
        raise Wrong("code in the file ran")
    if is_wrong:
        check_refused(code, output)
    check_no_traceback(output)
    after = _outputs(project)
    if after == before:
        return
    history = str(project.folder / "models/cnn3d_v2-1/history.json")  # emptied by a training that refuses its weights
    if code and "stages.train" in COMMANDS[name] and after == {k: v for k, v in before.items() if k != history}:
        project.restore("built")
        return
    project.restore("built")
    if is_wrong or name.endswith((".pt", ".npz")):
        raise Wrong("it changed a result")


def _outputs(project: Project) -> dict[str, bytes]:
    files = [project.folder / name for name in WRITTEN]
    files += sorted((project.folder / "data/rgb").rglob("*.zip"))
    found = {str(file): file.read_bytes() for file in files if file.is_file()}
    outside = [path for path in (project.top / "now").iterdir() if path.name not in ("clips", "project")]
    return found | {str(path): b"" for path in outside}


def _damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    data, kind = bytearray(content), rng.choice(["flip", "cut", "remove", "zeros"])
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 10, 1000]))
    if kind == "flip":
        data[start] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[start:]
    elif kind == "remove":
        del data[start:end]
    else:
        data[start:end] = bytes(end - start)
    return f"{kind} {start}:{end}", bytes(data)


def _params(content: bytes) -> dict[str, bytes]:
    text = content.decode()
    bomb = "\n".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9) if n else 1}]" for n in range(30))
    made = {
        "tag of an object": text.replace("seed: 0", "seed: !!python/object/apply:os.system ['touch trapped']"),
        "tag of a module": text.replace("seed: 0", "seed: !!python/name:os.system"),
        "tag of its own": text.replace("seed: 0", "seed: !trap {a: 1}"),
        "a bomb of aliases": f"{text}{bomb}\n",
        "a bomb of aliases as a value": f"{bomb}\n{text}".replace("seed: 0", "seed: *b29"),
        "an alias of itself": text.replace("seed: 0", "seed: &a [*a]"),
        "a merge of itself": text.replace("seed: 0", "seed: &a {<<: *a}"),
        "nested 20,000 deep": text.replace("seed: 0", f"seed: {'[' * 20000}"),
        "two documents": f"{text}---\nseed: 1\n",
        "a key twice": f"{text}seed: 1\n",
        "a list": "- 1\n",
        "nothing": "",
        "no number": text.replace("seed: 0", "seed: .nan"),
        "a huge number": text.replace("seed: 0", f"seed: {'9' * 5000}"),
        "a path outside": text.replace("data/weights/start.pt", "../../../etc/passwd"),
    }
    return {kind: value.encode() for kind, value in made.items()} | {
        "no text": b"\xff\xfe\x00seed",
        "NUL": b"seed: \x00",
    }


def _clips(content: bytes) -> dict[str, bytes]:
    text = content.decode()
    header, first, *rest = text.splitlines(keepends=True)
    cells = first.split(",")

    def with_cell(column: int, value: str) -> str:
        return header + ",".join([*cells[:column], value, *cells[column + 1 :]]) + "".join(rest)

    made = {
        "an id that leads out": with_cell(0, '"../../../outside"'),
        "an absolute id": with_cell(0, '"/tmp/torture-evil"'),
        "an empty id": with_cell(0, '""'),
        "a path that leads out": with_cell(1, '"../../../../etc/passwd"'),
        "an absolute path": with_cell(1, '"/etc/passwd"'),
        "no number of frames": with_cell(4, "many"),
        "a negative number of frames": with_cell(4, "-8"),
        "no frames": with_cell(4, "0"),
        "10^30 frames": with_cell(4, "1" + 30 * "0"),
        "an unknown status": with_cell(8, '"fine"'),
        "a clip twice": text + first,
        "no clips but a header of another kind": "a,b,c\n1,2,3\n",
        "a column too many": text.replace("\n", ",1\n"),
        "an open quote": text[:-1] + '"',
        "nothing": "",
        "a video that is not there": with_cell(1, '"left/nowhere.avi"'),
    }
    return {kind: value.encode() for kind, value in made.items()} | {"no text": b"\xff\xfe\x00" + content}


def _scores(content: bytes) -> dict[str, bytes]:
    arrays = dict(np.load(io.BytesIO(content)))

    def saved(compressed: bool = False, **changes: object) -> bytes:
        buffer = io.BytesIO()
        (np.savez_compressed if compressed else np.savez)(buffer, **{**arrays, **changes})
        return buffer.getvalue()

    def with_header(header: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
            for name in old.namelist():
                new.writestr(name, _npy(header) if name == "logits.npy" else old.read(name))
        return buffer.getvalue()

    logits = arrays["logits"]
    return {
        "a pickle as an array": saved(classes=np.array([Trap()], dtype=object)),
        "a pickle alone": pickle.dumps(Trap()),
        "compressed zeros": saved(compressed=True, more=np.zeros(10**8, np.uint8)),
        "a shape of 10^13": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }"),
        "a negative shape": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }"),
        "a header that is code": with_header("__import__('os').system('touch trapped')"),
        "a header of brackets": with_header("(" * 9000),
        "no finite numbers": saved(logits=np.full_like(logits, np.nan)),
        "a clip too few": saved(logits=logits[:-1]),
        "a class too many": saved(classes=np.array([*arrays["classes"], "third"])),
        "a clip twice": saved(clip_id=np.repeat(arrays["clip_id"][:1], len(logits))),
        "labels out of range": saved(label=arrays["label"] + 7),
        "an unknown subset": saved(subset=np.full(len(logits), "exam")),
        "other clips": saved(clip_id=np.array([f"x/{name}" for name in arrays["clip_id"]])),
        "nothing": b"",
        "no ZIP": b"PK\x03\x04" + bytes(100),
    }


def _npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _model(content: bytes) -> dict[str, bytes]:
    state = torch.load(io.BytesIO(content), weights_only=True)
    name, first = next(iter(state.items()))

    def saved(value: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    return {
        "a pickle that runs code": saved({**state, "trap": Trap()}),
        "a pickle alone": pickle.dumps(Trap()),
        "a pickle of protocol 0": pickle.dumps(Trap(), protocol=0),
        "a tensor too few": saved({key: value for key, value in state.items() if key != name}),
        "another shape": saved({**state, name: first.flatten()[:1]}),
        "no tensors": saved({"a": 1}),
        "a list": saved([1, 2]),
        "nothing": b"",
        "noise": random.Random(0).randbytes(5000),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }


def _config(content: bytes) -> dict[str, bytes]:
    values = json.loads(content)

    def changed(**changes: object) -> bytes:
        return json.dumps({**values, **changes}).encode()

    return {
        "another network": changed(model="resnet18"),
        "a network that is none": changed(model="../../evil"),
        "a size of 10^9": changed(size=10**9),
        "no classes": changed(classes=[]),
        "a class too many": changed(classes=[*values["classes"], "third"]),
        "a deviation of 0": changed(normalisation={"mean": [0, 0, 0], "std": [0, 0, 0]}),
        "a key too many": changed(trap="x"),
        "a list": b"[]",
        "nested 100,000 deep": b"[" * 100_000,
        "nothing": b"",
        "no text": b"\xff\xfe\x00",
    }


MADE_UP: dict[str, Callable[[bytes], dict[str, bytes]]] = {
    "params.yaml": _params,
    "data/clips.csv": _clips,
    "data/scores/split1/flow3d.npz": _scores,
    "models/cnn3d_v2-1/model.pt": _model,
    "models/cnn3d_v2-1/config.json": _config,
    "data/weights/start.pt": _model,
}
