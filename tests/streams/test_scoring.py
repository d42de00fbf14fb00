"""Scores of clips come from the cache where the model, the frames and the protocol are the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from random_models import make_models

from twostream.clipstore import write_clip
from twostream.params import Runtime, Score
from twostream.streams.scoring import score_clips
from twostream.views.examples import Example

pytestmark = pytest.mark.slow

PROTOCOL = Score(segments=2, crops=1, flip=True)


@pytest.fixture
def model(tmp_path):
    return make_models(tmp_path / "models") / "spatial-1"


def _examples(folder: Path, count: int) -> list[Example]:
    examples = []
    for i in range(count):
        path = folder / f"{i}.zip"
        if not path.exists():
            write_clip(
                path, np.random.default_rng(i).integers(0, 256, (9, 24, 32, 3), np.uint8), 90, {"modality": "rgb"}
            )
        examples.append(Example(f"a/{i}", path, 0))
    return examples


def _score(model, examples, protocol=PROTOCOL):
    cache = model.parents[1] / "cache"
    return score_clips(model, examples, protocol, Runtime(workers=1, accelerator="cpu", devices=1), cache)[1]


def test_one_more_clip_is_scored_and_the_others_are_not(model, tmp_path, capsys):
    first = _score(model, _examples(tmp_path, 3))
    second = _score(model, _examples(tmp_path, 4))
    assert "4 clips, 1 scored, 3 from the cache" in capsys.readouterr().out
    assert np.array_equal(second[:3], first) and not np.array_equal(second[3], first[0])


def test_a_clip_has_the_same_logits_whatever_is_scored_with_it(model, tmp_path):
    together = _score(model, _examples(tmp_path, 5))
    (model.parents[1] / "cache").rename(tmp_path / "elsewhere")
    assert np.array_equal(_score(model, _examples(tmp_path, 5)[4:])[0], together[4])


def test_another_model_protocol_or_content_is_scored_again(model, tmp_path, capsys):
    examples = _examples(tmp_path, 2)
    _score(model, examples)
    _score(model, examples, Score(segments=3, crops=1, flip=True))
    weights = torch.load(model / "model.pt")
    torch.save({name: value * 2 for name, value in weights.items()}, model / "model.pt")
    _score(model, examples)
    write_clip(examples[0].path, np.zeros((9, 24, 32, 3), np.uint8), 90, {"modality": "rgb"})
    _score(model, examples)
    scored = [line.split(", ")[1] for line in capsys.readouterr().out.splitlines()]
    assert scored == ["2 scored", "2 scored", "2 scored", "1 scored"]


def test_scores_of_models_that_are_long_gone_are_removed(model, tmp_path):
    cache = model.parents[1] / "cache" / "scores"
    cache.mkdir(parents=True)
    old, recent = cache / "old.jsonl", cache / "recent.jsonl"
    for file, days in ((old, 100), (recent, 3)):
        file.write_text("")
        os.utime(file, (time.time() - 86400 * days,) * 2)
    _score(model, _examples(tmp_path, 1))
    assert recent.exists() and not old.exists()


def test_nothing_to_score_needs_no_torch(model, tmp_path):
    script = f"""
import sys
from pathlib import Path
from twostream.params import Runtime, Score
from twostream.streams.scoring import score_clips
from twostream.views.examples import Example
examples = [Example("a/0", Path({str(tmp_path / "0.zip")!r}), 0)]
protocol, runtime = Score(segments=2, crops=1, flip=True), Runtime(workers=1, accelerator="cpu", devices=1)
score_clips(Path({str(model)!r}), examples, protocol, runtime, Path({str(model.parents[1] / "cache")!r}))
sys.exit("torch" in sys.modules)
"""
    _score(model, _examples(tmp_path, 1))
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
