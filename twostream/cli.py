"""The command line, `twostream COMMAND`; `twostream --help` lists the commands."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shtab

from twostream.errors import UserError, reason, validation_reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from twostream.fusion.events import Event
    from twostream.inference.predict import Prediction, Predictor, Window
    from twostream.params import Score


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run a command; a UserError prints one line and exits with code 2."""
    args = make_parser().parse_args(arguments)
    try:
        args.run(args)
    except UserError as error:
        _print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `twostream models | head`
        sys.stderr.close()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. The parsed arguments hold the function of their command as `run`."""
    parser = argparse.ArgumentParser(
        prog="twostream", usage="%(prog)s [-h] COMMAND ...", description="Two-stream action recognition."
    )
    # argparse forgets the indentation of the names in the width of their column; the spaces add it.
    commands = parser.add_subparsers(title="commands", metavar=f"{'COMMAND':<12}", prog="twostream", required=True)
    for add in (
        _add_profile,
        _add_import,
        _add_doctor,
        _add_check,
        _add_why,
        _add_cache,
        _add_models,
        _add_weights,
        _add_train,
        _add_results,
        _add_predict,
        _add_serve,
        _add_flow,
        _add_export,
        _add_completion,
    ):
        add(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], help: str, more: str = "", **options: Any
) -> argparse.ArgumentParser:
    """Add a command. `help` is its line in the list of commands; its own page adds `more`."""
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}", **options)
    parser.set_defaults(run=run)
    return parser


def _add_profile(commands: Any) -> None:
    lists = "Without a name, list the profiles."
    parser = _command(commands, "profile", _profile, "write params.yaml for a purpose", lists)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the profile, such as hmdb51")
    change = "change a value, such as train.rgb=[spatial]"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=change)
    parser.add_argument("--force", action="store_true", help="overwrite edits of params.yaml that git does not hold")
    diff = "write nothing; list what params.yaml changes against NAME, or against the profile it was written from"
    parser.add_argument("--diff", action="store_true", help=diff)


def _profile(args: argparse.Namespace) -> None:
    from twostream import profiles

    if args.diff:
        print(profiles.edits(args.name))
    elif args.name:
        profiles.write_params(args.name, args.set, args.force)
        print(f"params.yaml: written from profile {args.name}")
    else:
        for name, purpose in profiles.profiles().items():
            print(f"{name:<16} {purpose}")


def _add_import(commands: Any) -> None:
    parser = _command(
        commands,
        "import",
        _import,
        "make a table of clips from annotated time segments",
        "Videos are not cut. docs/segments.md shows the way from an export to a trained model and back.",
    )
    what = "what Label Studio, CVAT, VIA or ELAN exported, or a CSV with video,start,end,label"
    _add_path(parser, "files", nargs="+", type=Path, metavar="FILE", help=what)
    formats = ("label-studio", "cvat", "via", "elan", "csv")
    parser.add_argument("--from", dest="format", choices=formats, help="its format (recognised by its content)")
    _add_path(parser, "--videos", type=Path, metavar="DIR", help="folder of the videos (that of the first FILE)")
    out = "the table (data/tables/<name of FILE>.csv)"
    _add_path(parser, "-o", "--out", type=Path, metavar="TABLE", help=out)
    pieces = "make clips of a class NAME from unlabelled time; predict then makes no events of it"
    parser.add_argument("--background", metavar="NAME", help=pieces)
    layer = "use only this tier (ELAN), control (Label Studio) or attribute (CVAT, VIA)"
    parser.add_argument("--layer", metavar="NAME", help=layer)
    rate = "frames per second of the labelling, if it is not that of the video (frameRate of Label Studio)"
    parser.add_argument("--fps", type=_above_zero, metavar="N", help=rate)
    blocks = "cut the time of each video into N blocks, each a group (1; 10 for one or two videos)"
    parser.add_argument("--blocks", type=_positive, metavar="N", help=blocks)
    parser.add_argument("--profile", metavar="NAME", help="also write params.yaml from this profile for the table")
    change = "change a value of the profile, such as seed=1"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=change)
    parser.add_argument("--force", action="store_true", help="overwrite edits of params.yaml that git does not hold")


def _import(args: argparse.Namespace) -> None:
    from twostream import profiles
    from twostream.annotations import import_annotations, write_rows

    videos = args.videos or args.files[0].parent
    options = {name: getattr(args, name) for name in ("format", "layer", "fps", "background", "blocks")}
    rows = import_annotations(args.files, videos, **options)
    table = args.out or Path("data/tables", f"{args.files[0].stem}.csv")
    write_rows(table, rows)
    count = len({row["class"] for row in rows})
    print(f"{table}: {len(rows)} clips of {count} classes in {len({row['path'] for row in rows})} videos")
    name = (
        table.absolute().relative_to(videos.absolute()) if table.absolute().is_relative_to(videos.absolute()) else table
    )
    values = [f"dataset.source={videos.absolute()}", f"dataset.table={name}"]
    values += [f"dataset.background={args.background}"] if args.background else []
    if args.profile:
        profiles.write_params(args.profile, [*values, *args.set], args.force)
        print(f"params.yaml: written from profile {args.profile}; next: dvc repro")
    else:
        print(f"next: twostream profile folder {' '.join('--set ' + shlex.quote(value) for value in values)}")


def _add_doctor(commands: Any) -> None:
    parser = _command(
        commands,
        "doctor",
        _doctor,
        "check this machine before a long run",
        "Prints one line per check: ok, warning or problem, and what to do. Nothing is fetched or written.",
    )
    _add_path(parser, "file", nargs="?", default="params.yaml", help="the parameter file (params.yaml)")


def _doctor(args: argparse.Namespace) -> None:
    from twostream.doctor import doctor

    sys.exit(doctor(args.file))


def _add_check(commands: Any) -> None:
    parser = _command(commands, "check", _check, "check a parameter file", "`dvc repro` checks params.yaml too.")
    _add_path(parser, "file", nargs="?", default="params.yaml", help="the parameter file (params.yaml)")


def _check(args: argparse.Namespace) -> None:
    from stages.common import find_cache
    from twostream.core.outputs import output_folders, refuse_foreign
    from twostream.core.workspace import absent_in_experiments
    from twostream.params import load_params
    from twostream.sources import check_source

    params = load_params(args.file)
    check_source(params.dataset.source)
    if Path("dvc.yaml").exists():
        refuse_foreign(output_folders(params), find_cache())
    streams = ", ".join([*params.train.rgb, *params.train.flow])
    print(f"{args.file}: valid. Data set {params.dataset.name}, flow {params.flow.method}, streams {streams}")
    if warning := absent_in_experiments(params.dataset.source):
        print(f"WARNING: {warning}")


def _add_why(commands: Any) -> None:
    parser = _command(
        commands,
        "why",
        _why,
        "list what has changed and what the next run will cost",
        "Names the parameters, files and code for which `dvc repro STAGE` would run stages. Nothing is run or written.",
    )
    parser.add_argument("stage", nargs="?", metavar="STAGE", help="a stage, such as train_rgb (all stages)")


def _why(args: argparse.Namespace) -> None:
    from twostream.why import why

    print(why(args.stage))


def _add_cache(commands: Any) -> None:
    parser = _command(
        commands,
        "cache",
        _cache,
        "show what the cache of the stages holds, or remove what is old",
        "It lies beside DVC's own cache, which `dvc gc` cleans. What is removed is made again when it is needed.",
    )
    for option, unit, text in (
        ("--older-than", "DAYS", "remove what no run has used for so many days"),
        ("--max-size", "GB", "remove the oldest files until so many gigabytes are left"),
    ):
        parser.add_argument(option, type=_above_zero, metavar=unit, help=text)


def _cache(args: argparse.Namespace) -> None:
    from stages.common import find_cache
    from twostream.core.prune import CONTENTS, parts, prune

    root = find_cache().root
    if args.older_than or args.max_size:
        count, size = prune(root, args.older_than, args.max_size and args.max_size * 1e9)
        print(f"removed {count:,} files, {size / 1e6:,.1f} MB")
    print(f"{root}:\n{'':<14} {'files':>10} {'MB':>10}  {'oldest':>10}")
    for part in parts(root):
        age = f"{part.oldest:.0f} days"
        print(f"{part.name:<14} {part.files:>10,} {part.size / 1e6:>10,.1f}  {age:>10}  {CONTENTS.get(part.name, '')}")


def _add_models(commands: Any) -> None:
    _command(commands, "models", _models, "list the networks with their input and number of parameters")


def _models(args: argparse.Namespace) -> None:
    from twostream.networks.registry import list_models

    print(f"{'name':<36} {'modality':<10} {'input':<18} {'parameters':>12}")
    for row in list_models():
        size = "x".join(str(n) for n in row["input"])
        print(f"{row['name']:<36} {row['modality']:<10} {size:<18} {row['parameters']:>12,}")
    print(
        "timm/<name> is any other 2D network of timm, on RGB frames or stacked flow; inflated/<name> is its 3D version."
        "\n"
        "hf/<id> or hf/data/weights/<folder> is a network of Hugging Face's transformers, for videos or for images."
    )


def _add_weights(commands: Any) -> None:
    ahead = "`weights: pretrained` then finds them without a network."
    parser = _command(commands, "weights", _weights, "fetch the pretrained weights of a network", ahead)
    parser.add_argument("model", metavar="NAME", help="the network, such as i3d; `twostream models` lists them")


def _weights(args: argparse.Namespace) -> None:
    from twostream.core.files import sha256_of
    from twostream.networks.registry import fetch_pretrained

    published = fetch_pretrained(args.model)
    file = published.file()
    print(f"file:    {file}\nSHA-256: {sha256_of(file) if file else '-'}")
    print(f"licence: {published.licence or 'the publisher states none'}")


def _add_train(commands: Any) -> None:
    parser = _command(
        commands,
        "train",
        _train,
        "train the streams of all splits side by side",
        "They stay in the cache, from which `dvc repro` takes them. Clips must be extracted before.",
    )
    jobs = "how many train at a time (one per GPU)"
    parser.add_argument("--jobs", type=_positive, metavar="N", help=jobs)
    where = "train on the workers of a Dask cluster, one stream each: its scheduler's address, or file"
    _add_path(parser, "--cluster", metavar="SCHEDULER", default="", help=where)


def _train(args: argparse.Namespace) -> None:
    from stages.common import FROM_CACHE
    from stages.train import cost
    from twostream.core import cluster
    from twostream.core.device import device_of
    from twostream.params import load_params
    from twostream.streams.jobs import Job, check_finished, train_side_by_side

    params, gpus = load_params(), 0
    os.environ[cluster.VARIABLE] = args.cluster or cluster.scheduler()
    if device_of(params.runtime.accelerator) == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        if params.runtime.devices != 1:  # or each of them would start processes on all GPUs
            raise UserError("runtime.devices: a stream that is trained beside others has one GPU; set it to 1")

    def unfinished(jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if FROM_CACHE not in cost(params, job.stream, str(job.split))]

    streams = [*params.train.rgb, *params.train.flow]
    todo = unfinished([Job(stream, split) for split in params.dataset.splits for stream in streams])
    print(f"{len(streams) * len(params.dataset.splits)} trainings, {len(todo)} to do", flush=True)
    if todo:
        failed = train_side_by_side(todo, args.jobs or max(1, gpus), gpus)
        check_finished(failed, [] if failed else unfinished(todo))


def _add_results(commands: Any) -> None:
    parser = _command(commands, "results", _results, "print the test results of `dvc repro` as a table")
    _add_path(parser, "--metrics", default="metrics/metrics.json", help="the metrics (metrics/metrics.json)")


def _results(args: argparse.Namespace) -> None:
    from twostream.fusion.evaluation import results_table

    try:
        metrics = json.loads(Path(args.metrics).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{args.metrics}: cannot be read ({reason(error)}); run `dvc repro` first") from None
    from twostream.params import RESERVED

    print(results_table(metrics, [name for name in metrics if name not in RESERVED]))


def _add_predict(commands: Any) -> None:
    parser = _command(commands, "predict", _predict, "recognise the actions in videos with the trained models")
    what = "a video, a folder of videos, an address (http, rtsp, ...), the number of a camera, or - for standard input"
    _add_path(parser, "videos", nargs="+", metavar="VIDEO", help=what)
    _add_model_arguments(parser)
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="device (auto)")
    parser.add_argument("--top", type=_positive, default=5, metavar="K", help="number of classes to print (5)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON per video, or per live window")
    copy = "write a copy of the video with classes and flow drawn on it"
    _add_path(parser, "--annotate", type=Path, metavar="OUT.mp4", help=copy)
    where = "write where each class is seen: .csv, .json, .vtt (subtitles) or .ls.json (predictions of Label Studio)"
    _add_path(parser, "--events", type=Path, metavar="OUT", help=where)
    window = "length of the windows to classify (5; a video of up to 30 s is one window; with --events about an event)"
    parser.add_argument("--every", type=float, metavar="SECONDS", help=window)
    protocol = parser.add_argument_group(
        "test protocol", "Default: `score` of the params.yaml next to the models; without that file 5, 1 and flip."
    )
    protocol.add_argument("--segments", type=_positive, metavar="N", help="segments of a window that are scored")
    protocol.add_argument("--crops", type=int, choices=(1, 3, 5), help="crops of each segment")
    protocol.add_argument("--flip", action=argparse.BooleanOptionalAction, help="score the mirror image too")


def _predict(args: argparse.Namespace) -> None:
    sources = list(_sources(args.videos))
    if args.annotate:
        from twostream.inference.annotate import check_target

        if len(sources) != 1 or not isinstance(sources[0], Path):
            raise UserError(f"--annotate copies one video file; these are {len(sources)} sources, or a live one")
        check_target(args.annotate, sources[0])
    if args.events:
        from twostream.inference import event_files

        if not all(isinstance(source, Path) for source in sources):
            raise UserError("--events is for video files, not for live sources; leave it out")
        event_files.check_target(args.events, len(sources))
    from twostream.fusion.events import read_settings
    from twostream.inference.predict import Predictor

    with _model_folder(args) as models:
        predictor = Predictor(models, args.split, args.accelerator, _score(args, models), progress=True)
        args.event_settings = read_settings(models / f"events-{args.split}.json")
    failed = 0
    args.timelines = []
    for source in sources:
        try:
            if isinstance(source, Path):
                _predict_file(predictor, source, str(source), args)
            else:
                _predict_live(predictor, source, args)
        except UserError as error:
            failed += 1
            _print_error(error)
    if args.timelines:
        event_files.write_events(args.events, args.timelines)
        print(f"{args.events}: {sum(len(one.events) for one in args.timelines)} events", file=sys.stderr)
    if failed == len(sources):
        sys.exit(2)


def _sources(names: Sequence[str]) -> Iterator[Path | str | int]:
    """Yield files, addresses and cameras in the order of the arguments, and for a folder all videos below it."""
    from twostream.datasets import is_video
    from twostream.inference.live import is_live
    from twostream.sources.walk import walk_files

    for name in names:
        scheme, separator, rest = name.partition("://")
        path = Path(name)
        if is_live(scheme.lower() + separator + rest):
            yield scheme.lower() + separator + rest
        elif separator and not path.exists():
            raise UserError(f"{name}: {scheme}:// is not supported; download the video and name the file")
        elif name.isdecimal() and not path.exists():
            yield int(name)
        else:
            if name.startswith("~") and not path.exists():  # in quotes the shell leaves it
                path = path.expanduser()
            if not path.is_dir():
                yield path
                continue
            found = [path / file for file in walk_files(path) if is_video(file)]
            if not found:
                raise UserError(f"{name}: there is no video in this folder; name a folder with videos, or a file")
            yield from found


def _score(args: argparse.Namespace, models: Path) -> Score | None:
    """Return the test protocol with the values of the command line, or None where it has none."""
    values = {key: getattr(args, key) for key in ("segments", "crops", "flip") if getattr(args, key) is not None}
    if not values:
        return None
    from pydantic import ValidationError

    from twostream.inference.predict import protocol_beside
    from twostream.params import Score

    rest = {} if len(values) == 3 else protocol_beside(models).model_dump()
    try:
        return Score.model_validate({**rest, **values})
    except ValidationError as error:
        raise UserError(f"--{validation_reason(error)}") from None


def _predict_file(predictor: Predictor, path: Path, name: str, args: argparse.Namespace) -> None:
    from twostream.inference.event_files import Timeline, event_dict
    from twostream.inference.predict import EVERY_S

    if args.events:
        window = args.every or args.event_settings.window or EVERY_S
        prediction = predictor.timeline(path, window)
        events = prediction.events(args.event_settings)
        args.timelines.append(Timeline(name, prediction.windows[-1].end, prediction.times, events))
    else:
        prediction, events = predictor.predict(path, args.every), None
    prediction = dataclasses.replace(prediction, source=name)
    if prediction.warning:
        print(f"WARNING: {name}: {prediction.warning}", file=sys.stderr)
    if args.json:
        more = {} if events is None else {"events": [event_dict(event) for event in events]}
        print(json.dumps({**prediction.to_dict(args.top), **more}, ensure_ascii=False), flush=True)
    else:
        print(_table(prediction, predictor, args.top, events), flush=True)
    if args.annotate:
        from twostream.inference.annotate import annotate

        annotate(predictor, prediction, args.annotate, progress=True)
        print(f"{args.annotate}: written", file=sys.stderr)


def _predict_live(predictor: Predictor, source: int | str, args: argparse.Namespace) -> None:
    """Print each window when it ends; an address of a file is predicted as a file."""
    from twostream.inference.live import STDIN, fetched
    from twostream.inference.predict import window_dict

    with fetched(source) as file:
        if file:
            _predict_file(predictor, file, str(source), args)
            return
        key, name = ("camera", f"camera {source}") if isinstance(source, int) else ("video", source)
        name = "standard input" if source == STDIN else name
        if not args.json:
            print(f"{name}; Ctrl-C ends it", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            for window in predictor.windows(source, args.every):
                if args.json:
                    values = {key: source, **window_dict(window, predictor.classes, args.top)}
                    print(json.dumps(values, ensure_ascii=False), flush=True)
                else:
                    print(_window_line(window, predictor), flush=True)


def _table(prediction: Prediction, predictor: Predictor, count: int, events: Sequence[Event] | None) -> str:
    """Return the most probable classes of the fusion, with the probabilities of the fusion and of each stream.

    Below them stand the top class of each stream, and one line per event, or else per window if there are several.
    """
    streams = list(predictor.streams)
    names = ["fusion", *streams] if len(streams) > 1 else streams
    probabilities = {name: prediction.probabilities(name) for name in names}
    tops = [name for name, _ in prediction.top(count)]
    label = max(len("class"), *(len(_shown(name)) for name in tops))
    width = {name: max(len(name), 6) for name in names}
    lines = [f"{_shown(prediction.source)}: {prediction.windows[-1].end:.2f} s, {len(prediction.times)} frames"]
    lines += ["  ".join([f"  {'class':<{label}}", *(f"{name:>{width[name]}}" for name in names)])]
    for top in tops:
        index = prediction.classes.index(top)
        cells = [f"{_percent(probabilities[name][index]):>{width[name]}}" for name in names]
        lines.append("  ".join([f"  {_shown(top):<{label}}", *cells]))
    for name in names[1:]:
        lines.append(f"  {name} alone: {_top_class(probabilities[name], prediction.classes)}")
    if events is not None:
        lines += [
            f"  {_clock(event.start)} to {_clock(event.end)}  {_shown(event.label)} {_percent(event.confidence)}"
            for event in events
        ]
    elif len(prediction.windows) > 1:
        lines += [f"  {_window_line(window, predictor)}" for window in prediction.windows]
    return "\n".join(lines)


def _window_line(window: Window, predictor: Predictor) -> str:
    """Return a line such as `0:05.0 to 0:10.0  wave 98.1%  (spatial: jump 45.0%, temporal: wave 80.2%)`."""
    fused = _top_class(window.probabilities(), predictor.classes)
    line = f"{_clock(window.start)} to {_clock(window.end)}  {fused}"
    if len(predictor.streams) == 1:
        return line
    alone = [f"{name}: {_top_class(window.probabilities(name), predictor.classes)}" for name in predictor.streams]
    return f"{line}  ({', '.join(alone)})"


def _top_class(probabilities: np.ndarray, classes: Sequence[str]) -> str:
    index = int(probabilities.argmax())
    return f"{_shown(classes[index])} {_percent(probabilities[index])}"


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}%"


def _clock(seconds: float) -> str:
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def _shown(name: object) -> str:
    from twostream.report.text import visible

    return visible(name)


def _add_serve(commands: Any) -> None:
    parser = _command(commands, "serve", _serve, "open a local web page that recognises the actions in videos")
    _add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on, 0 for any free one (8000)")
    parser.add_argument("--max-megabytes", type=_above_zero, default=200, metavar="MB", help="largest video (200)")
    parser.add_argument("--max-seconds", type=_above_zero, default=300, metavar="S", help="longest video (300)")
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")


def _serve(args: argparse.Namespace) -> None:
    from twostream.inference.serve import serve

    limits = args.max_megabytes, args.max_seconds
    with _model_folder(args) as models:
        serve(models, args.split, args.host, args.port, *limits, open_browser=not args.no_browser)


def _add_flow(commands: Any) -> None:
    parser = _command(
        commands,
        "flow",
        _flow,
        "write the optical flow of videos as files",
        "Run the same command again after an interruption: finished videos are kept. docs/flow-tool.md shows how to "
        "read each format.",
    )
    _add_path(parser, "videos", nargs="+", type=Path, metavar="VIDEO", help="a video, or a folder of videos")
    _add_path(parser, "-o", "--out", type=Path, required=True, metavar="DIR", help="output folder")
    formats = ("jpg", "png", "flo", "npy", "zip", "mp4")
    parser.add_argument("--format", choices=formats, default="jpg", help="format of the output (jpg)")
    methods = ("tvl1", "farneback", "dis", "raft")
    parser.add_argument("--method", choices=methods, default="tvl1", help="flow method (tvl1)")
    presets = "of tvl1: fast, balanced, accurate (balanced); of dis: ultrafast, fast, medium (medium)"
    parser.add_argument("--preset", metavar="PRESET", help=presets)
    size = "short side of the flow in pixels; smaller videos are not enlarged (256)"
    parser.add_argument("--size", type=_positive, default=256, metavar="PX", help=size)
    bound = "jpg and zip: largest motion in pixels per frame; mp4: the motion of full colour (20)"
    parser.add_argument("--bound", type=_above_zero, default=20, metavar="PX", help=bound)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device (auto)")
    parser.add_argument("--workers", type=_positive, metavar="N", help="cores to use (all)")


def _flow(args: argparse.Namespace) -> None:
    from twostream.flow import flow_settings
    from twostream.flow_tool import find_videos, write_flow

    try:
        values = {"short_side": args.size, "bound": args.bound, "device": args.device}
        settings = flow_settings(args.method, args.preset, **values)
    except ValueError as error:
        raise UserError(str(error)) from None
    failed = write_flow(find_videos(args.videos, args.out), args.out, settings, args.format, args.workers or 0)
    for path, why in failed.items():
        _print_error(UserError(f"{path}: {why}"))
    if failed:
        sys.exit(2)


def _add_export(commands: Any) -> None:
    parser = _command(commands, "export", _export, "write the trained networks as ONNX files")
    _add_model_arguments(parser)
    _add_path(parser, "--out", type=Path, default=Path("exported"), metavar="DIR", help="output folder (exported)")


def _export(args: argparse.Namespace) -> None:
    from twostream.inference.predict import Predictor

    with _model_folder(args) as models:
        predictor = Predictor(models, args.split, "cpu")
    from twostream.inference.export import DESCRIPTION, export

    for exported in export(predictor, args.out):
        print(f"{exported.path}: logits differ from PyTorch's by at most {exported.difference:.1e}")
    print(f"{args.out / DESCRIPTION}: classes, input shapes, test protocol and fusion")


def _add_completion(commands: Any) -> None:
    parser = _command(
        commands,
        "completion",
        _completion,
        "print a script with which a shell completes these commands",
        epilog='bash: eval "$(twostream completion bash)" in ~/.bashrc; zsh: write it to a file _twostream in $fpath.',
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def _completion(args: argparse.Namespace) -> None:
    print(shtab.complete(make_parser(), args.shell))


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    models = "folder of the trained models (models)"
    _add_path(parser, "--models", type=Path, default=Path("models"), metavar="DIR", help=models)
    parser.add_argument("--split", type=_positive, default=1, metavar="N", help="the split they were trained on (1)")
    network = "instead: a network with its published weights and the 400 classes of Kinetics, such as i3d"
    parser.add_argument("--pretrained", metavar="NETWORK", help=network)


@contextlib.contextmanager
def _model_folder(args: argparse.Namespace) -> Iterator[Path]:
    """Yield the model folder of the arguments."""
    if not args.pretrained:
        yield args.models
        return
    from twostream.inference.pretrained import write_pretrained

    with tempfile.TemporaryDirectory(prefix="twostream-") as folder:
        yield write_pretrained(args.pretrained, Path(folder))


def _add_path(parser: argparse.ArgumentParser, *names: str, **options: Any) -> None:
    """Add an argument whose value the shell completes to the name of a file or folder."""
    parser.add_argument(*names, **options).complete = shtab.FILE  # type: ignore[attr-defined]


def _print_error(error: UserError) -> None:
    print(f"ERROR: {' '.join(str(error).split())}", file=sys.stderr)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError("must be from 0 to 65535")
    return value


if __name__ == "__main__":
    main()
