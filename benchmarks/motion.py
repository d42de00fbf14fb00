"""Measure what motion inputs are worth: accuracy alone and beside RGB, and their cost, in one table per data set.

    python benchmarks/motion.py --data fights=DIR arid6=DIR ucf101=DIR [--weights FILE] [--methods ...] [--seeds 0 1 2]
    python benchmarks/motion.py --data ... --write docs/flow.md   # the table of what was measured, into the page

Every motion input goes through the same frozen I3D up to Mixed_4f and a linear classifier, as flow does in
`profiles/folder-quick.yaml`, so that only the inputs differ. `codec` are the motion vectors in the video file itself,
drawn as a field per frame. A seed draws the folds by which the classifier and the fusion are chosen. Clips, features
and results are kept in `--work`: a killed run goes on, and inputs that have no result yet are listed as not measured.

Intervals are for the difference to RGB alone on the same clips, from resamplings of groups. The seconds are those of
one core to decode a clip and find its motion, without the network.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from command import positive, run
from project import compare

from twostream.clipstore import write_clip
from twostream.clipstore.extract import extract_flow, extract_rgb
from twostream.clipstore.flow import flow_frames
from twostream.clipstore.frames import stored_size
from twostream.core.cache import FileCache, RecordCache
from twostream.core.files import atomic_path
from twostream.core.parallel import progress
from twostream.datasets import get_dataset
from twostream.datasets.probing import list_and_probe
from twostream.datasets.tables import classes_of
from twostream.errors import UserError
from twostream.flow import flow_settings
from twostream.flow.encoding import encode_flow
from twostream.fusion.methods import fit_fusion
from twostream.fusion.scores import Scores
from twostream.params import Dataset, Flow, Rgb, Runtime, parse_params
from twostream.profiles import load_profile
from twostream.streams.features import FrozenStream
from twostream.streams.head import fit_head
from twostream.video import open_video
from twostream.views.examples import Example, list_examples

NONE, DIFFERENCE, CODEC = "none", "difference", "codec"
SOLVERS = {
    "farneback": ("farneback", None),
    "dis": ("dis", None),
    "tvl1-fast": ("tvl1", "fast"),
    "tvl1-balanced": ("tvl1", "balanced"),
    "tvl1-accurate": ("tvl1", "accurate"),
}
METHODS = (NONE, DIFFERENCE, *SOLVERS, CODEC)
WORDS = {NONE: "none: RGB alone", DIFFERENCE: "RGB difference", CODEC: "motion vectors of the codec"}
START, END = "<!-- benchmarks/motion.py -->", "<!-- end of benchmarks/motion.py -->"
_TIMED_CLIPS = 8


def main() -> None:
    """Parse the command line, measure, print the tables or write them into a page."""
    parser = argparse.ArgumentParser(description="What motion inputs are worth.")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=DIR", help="data sets: name and folder")
    parser.add_argument("--weights", default="pretrained", metavar="FILE", help="Kinetics weights of i3d (pretrained)")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS, help="inputs to measure (all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--workers", type=positive, default=1, help="processes (1)")
    parser.add_argument("--work", type=Path, default=Path("motion"), help="folder of what is kept (motion)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table of earlier results into this page")
    run(_run, parser.parse_args())


def _run(args: argparse.Namespace) -> None:
    names = [name for name, _ in (one.split("=", 1) for one in args.data)]
    if not args.write:
        for name, folder in (one.split("=", 1) for one in args.data):
            _DataSet(name, Path(folder).resolve(strict=True), args).measure()
    text = "\n\n".join(_table(args.work / name) for name in names)
    if not args.write:
        print(text)
        return
    page = args.write.read_text(encoding="utf-8")
    if START not in page or END not in page:
        raise UserError(f"{args.write}: has no lines {START!r} and {END!r} for the table to stand between")
    before, rest = page.split(START)
    with atomic_path(args.write) as temporary:
        temporary.write_text(f"{before}{START}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


class _DataSet:
    """One data set: its clips, what is extracted from them, and the results in `results.json`."""

    def __init__(self, name: str, source: Path, args: argparse.Namespace):
        self._work, self._args = args.work / name, args
        values = load_profile("folder-quick")
        is_ucf101 = (source / "ucfTrainTestlist").is_dir()
        values["dataset"] |= {"name": "ucf101" if is_ucf101 else "folder", "source": str(source), "allow_missing": True}
        params = parse_params(values)
        self._rgb: Rgb = params.rgb
        self._flow: Flow = params.flow
        heads = {name: params.streams[name] for name in ("spatial", "temporal")}
        self._streams = {name: stream.model_copy(update={"weights": args.weights}) for name, stream in heads.items()}
        self._runtime = Runtime(workers=args.workers, accelerator="auto", devices=1)
        self._cache = FileCache(self._work / "cache", None)
        self._clips, self._split = self._prepared(params.dataset)

    def _prepared(self, dataset: Dataset) -> tuple[pd.DataFrame, pd.Series]:
        package, videos, annotations = get_dataset(dataset.name), self._work / "videos", self._work / "annotations"
        if not videos.exists():
            package.fetch(dataset, videos, annotations, self._work / "scratch")
        records = RecordCache(self._work / "probes.jsonl")
        clips = list_and_probe(dataset, videos, annotations, records, self._args.workers)
        return clips, package.list_splits(dataset, clips, annotations)[1].replace("val", "train")

    def measure(self) -> None:
        """Measure the inputs that have no result yet; RGB alone comes first, the others are compared with it."""
        path = self._work / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {"groups": {}, "methods": {}}
        results["groups"] = self._clips.set_index("clip_id")["group"].to_dict()
        for method in dict.fromkeys([NONE, *self._args.methods]):
            if method not in results["methods"]:
                print(f"{self._work.name}: {method}", flush=True)
                results["methods"][method] = self._result(method)
                with atomic_path(path) as temporary:
                    temporary.write_text(json.dumps(results, indent=1))

    def _result(self, method: str) -> dict:
        """Return, by system and seed, which test clips are right, and the seconds of a core per clip."""
        rgb, motion = self._features("rgb", NONE), self._features(method, method)
        right: dict[str, dict[str, dict[str, bool]]] = {}
        for seed in self._args.seeds:
            scores = {"rgb": self._scores(rgb, seed)}
            if method != NONE:
                scores["motion"] = self._scores(motion, seed)
            fusion = fit_fusion("weighted", scores, step=0.05, c=1.0, seed=seed)
            scores["fused"] = fusion.apply(scores)
            for system, of in scores.items():
                tested = of.of("test")
                hits = (tested.logits.argmax(1) == tested.label).tolist()
                right.setdefault(system, {})[str(seed)] = dict(zip(tested.clip_id.tolist(), hits, strict=True))
        return {"right": right, "seconds": self._seconds(method)}

    def _examples(self, folder: Path) -> list[tuple[str, Example]]:
        return [
            (side, one) for side in ("train", "test") for one in list_examples(self._clips, self._split, folder, side)
        ]

    def _features(self, method: str, name: str) -> np.ndarray:
        """Extract an input, and return what the frozen network sees in each clip."""
        folder = self._work / ("rgb" if name in (NONE, DIFFERENCE) else name)
        videos, workers = self._work / "videos", self._args.workers
        if name in (NONE, DIFFERENCE):
            extract_rgb(self._clips, videos, folder, self._rgb, self._cache, workers)
        elif name == CODEC:
            self._extract_codec(folder)
        else:
            extract_flow(self._clips, videos, folder, self._settings(name), self._cache, workers)
        modality = "rgb" if name in (NONE, DIFFERENCE) else "flow"
        stream = self._streams["spatial" if name == NONE else "temporal"]  # one network for all kinds of motion
        if name == DIFFERENCE:
            stream = stream.model_copy(update={"input": "difference"})
        frozen = FrozenStream(method, stream, modality, self._runtime, self._cache)
        return frozen.features([example for _, example in self._examples(folder)])

    def _settings(self, method: str) -> Flow:
        solver, preset = SOLVERS[method]
        return flow_settings(solver, preset, short_side=self._flow.short_side, bound=self._flow.bound)

    def _scores(self, features: np.ndarray, seed: int) -> Scores:
        """Return out-of-fold logits of the training clips and logits of the test clips."""
        pairs = self._examples(Path())
        subset = np.array([side for side, _ in pairs])
        label = np.array([example.label for _, example in pairs])
        ids = np.array([example.clip_id for _, example in pairs])
        groups = self._clips.set_index("clip_id")["group"].loc[ids].to_numpy()
        classes, train = classes_of(self._clips), subset == "train"
        head = fit_head(features[train], label[train], groups[train], len(classes), balanced=False, seed=seed)
        logits = head.logits(features)
        logits[train] = head.out_of_fold
        return Scores(ids, label, np.array(classes), subset, logits)

    def _extract_codec(self, folder: Path) -> None:
        rows = list(self._clips[self._clips["status"] == "ok"].itertuples())
        with progress(len(rows), "codec", "clip") as bar:
            for row in rows:
                target = folder / f"{row.clip_id}.zip"
                if not target.exists():
                    codes = list(_codec_codes(self._work / "videos" / row.path, self._flow))
                    write_clip(target, codes, self._flow.jpeg_quality, {"modality": "flow", "source": "codec"})
                bar.update()

    def _seconds(self, method: str) -> float:
        """Return the seconds of one core to decode a clip and find its motion."""
        if method in (NONE, DIFFERENCE):
            return 0.0
        rows = list(self._clips[self._clips["status"] == "ok"].sort_values("clip_id").itertuples())
        chosen = [rows[number] for number in np.linspace(0, len(rows) - 1, _TIMED_CLIPS).astype(int)]
        spent = []
        for row in [chosen[0], *chosen]:  # the first compiles
            video = self._work / "videos" / row.path
            started = time.process_time()
            if method == CODEC:
                list(_codec_codes(video, self._flow))
            else:
                list(flow_frames(self._settings(method), video, row.frames))
            spent.append(time.process_time() - started)
        return round(float(np.mean(spent[1:])), 4)


def _codec_codes(path: Path, settings: Flow) -> Iterator[np.ndarray]:
    """Yield the flow codes of the motion vectors that lead to each frame but the first, uint8 [H, W, 2].

    A block without a vector (intra-coded, or skipped) has no motion. A vector points to a reference frame, which need
    not be the frame before: it is divided by nothing, as the file does not say how far away the reference is.
    """
    with open_video(path) as video:
        video.track.codec_context.options = {**(video.track.codec_context.options or {}), "flags2": "+export_mvs"}
        for number, frame in enumerate(video.decode()):
            if not number:
                continue
            field = np.zeros((frame.height, frame.width, 2), np.float32)
            vectors = frame.side_data.get("MOTION_VECTORS")
            for one in vectors.to_ndarray() if vectors is not None else ():
                if one["source"] < 0:  # from a frame before; others are predicted from the future
                    x, y = int(one["dst_x"]) - int(one["w"]) // 2, int(one["dst_y"]) - int(one["h"]) // 2
                    motion = -one["motion_x"] / one["motion_scale"], -one["motion_y"] / one["motion_scale"]
                    field[max(y, 0) : y + int(one["h"]), max(x, 0) : x + int(one["w"])] = motion
            width, height = stored_size(frame.width, frame.height, settings.short_side)
            # Blocks of 16 pixels: every n-th pixel is as good as a mean.
            rows = np.linspace(0, frame.height - 1, height).astype(int)
            columns = np.linspace(0, frame.width - 1, width).astype(int)
            small = field[rows][:, columns] * np.array([width / frame.width, height / frame.height], np.float32)
            yield encode_flow(small, settings.bound)


def _table(work: Path) -> str:
    """Return the results of a data set as Markdown; inputs without a result are not measured."""
    path = work / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"groups": {}, "methods": {}}
    groups, found = pd.Series(results["groups"]), results["methods"]
    lines = [
        f"{work.name}:",
        "",
        "| motion | alone, top-1 % | with RGB, top-1 % | with RGB minus RGB alone, points | core-seconds per clip |",
        "|---|---|---|---|---|",
    ]
    for method in METHODS:
        words = WORDS.get(method, method)
        if method not in found:
            lines.append(f"| {words} | not measured | | | |")
            continue
        systems = {
            (name, int(seed)): pd.Series(right, dtype=float)
            for name, by_seed in {"RGB": found[NONE]["right"]["rgb"], **found[method]["right"]}.items()
            for seed, right in by_seed.items()
        }
        of = compare(systems, groups)
        alone = "" if method == NONE else f"{of.loc['motion', 'top-1']:.1f}"
        gain = of.loc["fused"]
        low, high = gain["difference low"], gain["difference high"]
        points = f"{round(gain['difference'], 1) + 0.0:+.1f} ({low:+.1f} to {high:+.1f})"  # + 0.0: no "-0.0"
        seconds = f"{found[method]['seconds']:.2f}" if method not in (NONE, DIFFERENCE) else "0"
        lines.append(f"| {words} | {alone} | {gain['top-1']:.1f} | {'' if method == NONE else points} | {seconds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
