"""Videos with flipped bits, cut ends and foreign parts: the stages read or name them, and all read the same."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path

import yaml
from odd_videos import mutated

from torture.ledger import Case, Lost, Wrong, check_no_traceback
from torture.project import Project
from twostream.clipstore import ClipReader
from twostream.datasets import VIDEO_ENDINGS
from twostream.datasets.tables import read_clips


def cases(project: Project, rng: random.Random, count: int, at_once: int = 50) -> Iterator[Case]:
    originals = _originals(project.top / "originals")
    for start in range(0, count, at_once):
        seed = rng.randrange(2**32)
        number = min(at_once, count - start)
        yield Case("mutated video", f"seed {seed}", lambda s=seed, n=number: _check(project, originals, s, n), number)


def _originals(folder: Path) -> dict[str, bytes]:
    """Return the videos of tests/video/test_mutations.py, but for the kinds that a folder of clips leaves out."""
    spec = importlib.util.spec_from_file_location("mutations", Path(__file__).parents[1] / "video/test_mutations.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    originals = module.encode_originals(folder)
    return {name: content for name, content in originals.items() if Path(name).suffix in VIDEO_ENDINGS}


def _check(project: Project, originals: dict[str, bytes], seed: int, count: int) -> None:
    """Every video is listed; what can be read is extracted whole, and the others have a reason of one line."""
    project.restore("new")
    rng = random.Random(seed)
    source = project.top / "now" / "mutated"
    for number in range(count):
        name = rng.choice(sorted(originals))
        path = source / ("left", "right")[number % 2] / f"{number}{Path(name).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated([originals[name], *rng.sample(sorted(originals.values()), 2)], rng.randrange(2**32)))
    values = yaml.safe_load((project.folder / "params.yaml").read_text())
    values["dataset"].update(source=str(source), max_unreadable=count)
    (project.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for stage in ("download", "probe", "extract_rgb", "extract_flow"):
        code, output = project.run(f"stages.{stage}")
        check_no_traceback(output)
        if code:
            raise Lost(f"{stage} fails: {output[-300:]!r}")
    clips = read_clips(project.folder / "data/clips.csv")
    if len(clips) != count:
        raise Wrong(f"{len(clips)} of {count} clips are listed")
    for clip in clips.itertuples():
        if clip.status != "ok" and (not clip.reason or "\n" in clip.reason):
            raise Lost(f"{clip.clip_id}: the reason is {clip.reason!r}")
        if clip.status == "ok":
            with ClipReader(project.folder / f"data/rgb/{clip.clip_id}.zip") as reader:
                if len(reader) != clip.frames:
                    raise Wrong(f"{clip.clip_id}: {clip.frames} frames are listed, {len(reader)} extracted")
