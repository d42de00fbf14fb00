"""The command line: `twostream COMMAND`; `twostream --help` lists the commands in the order one meets them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shtab

from twostream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from twostream.inference.predict import Prediction, Predictor, Window
    from twostream.params import Score

Given = argparse.Namespace


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run a command; a UserError is one line and exit code 2."""
    given = make_parser().parse_args(arguments)
    try:
        given.run(given)
    except UserError as error:
        _say_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `twostream models | head`
        sys.stderr.close()


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the parsed arguments have the command as `run`, which takes them."""
    parser = argparse.ArgumentParser(
        prog="twostream", usage="%(prog)s [-h] COMMAND ...", description="Two-stream action recognition."
    )
    # The spaces widen argparse's column of names, for which it forgets how far it indents them.
    commands = parser.add_subparsers(title="commands", metavar=f"{'COMMAND':<12}", prog="twostream", required=True)
    for add in (
        _add_doctor,
        _add_check,
        _add_models,
        _add_results,
        _add_predict,
        _add_serve,
        _add_export,
        _add_completion,
    ):
        add(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[[Given], None], help: str, **more: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", **more)
    parser.set_defaults(run=run)
    return parser


def _add_doctor(commands: Any) -> None:
    parser = _command(commands, "doctor", _doctor, "check this machine before a long run")
    parser.add_argument("file", nargs="?", default="params.yaml", help="the parameter file (params.yaml)")


def _doctor(given: Given) -> None:
    from twostream.doctor import doctor

    sys.exit(doctor(given.file))


def _add_check(commands: Any) -> None:
    parser = _command(commands, "check", _check, "check a parameter file")
    parser.add_argument("file", nargs="?", default="params.yaml", help="the file (params.yaml)").complete = shtab.FILE


def _check(given: Given) -> None:
    from twostream.params import load_params

    params = load_params(given.file)
    streams = ", ".join([*params.train.rgb, *params.train.flow])
    print(f"{given.file}: good. Data set {params.dataset.name}, flow {params.flow.method}, streams {streams}")


def _add_models(commands: Any) -> None:
    parser = _command(commands, "models", _models, "list the networks: modality, input size, number of parameters")
    parser.add_argument("--classes", type=_positive, default=51, help="number of classes to count parameters for (51)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _models(given: Given) -> None:
    from twostream.networks.registry import list_models

    rows = list_models(given.classes)
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'name':<36} {'modality':<10} {'input':<18} {'parameters':>12}")
    for row in rows:
        size = "x".join(str(n) for n in row["input"])
        print(f"{row['name']:<36} {row['modality']:<10} {size:<18} {row['parameters']:>12,}")
    print(
        "timm/<name> takes any other 2D network of timm, on RGB frames or on stacked flow; inflated/<name> makes it 3D."
    )


def _add_results(commands: Any) -> None:
    parser = _command(commands, "results", _results, "print the table of results that `dvc repro` has made")
    file = parser.add_argument("--metrics", default="metrics/metrics.json", help="the file (metrics/metrics.json)")
    file.complete = shtab.FILE


def _results(given: Given) -> None:
    from twostream.fusion.evaluation import results_table

    try:
        metrics = json.loads(Path(given.metrics).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{given.metrics}: cannot be read ({error}); run `dvc repro` first") from None
    print(results_table(metrics, [name for name in metrics if name not in ("fusion", "fusion_gain", "clips")]))


def _add_predict(commands: Any) -> None:
    parser = _command(commands, "predict", _predict, "name the action in videos with the trained models")
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a video, a folder of videos, or the number of a camera"
    ).complete = shtab.FILE
    _add_model_arguments(parser)
    parser.add_argument("--top", type=_positive, default=5, metavar="K", help="likeliest classes to print (5)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON a video, of a camera one a window")
    parser.add_argument(
        "--annotate", type=Path, metavar="OUT.mp4", help="write a copy of the video with classes and flow drawn on it"
    ).complete = shtab.FILE
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="length of a window (a video up to 30 s: all of it; longer: 5)"
    )
    protocol = parser.add_argument_group(
        "test protocol", "Where not given, as `score:` in the params.yaml beside the models; without one 5, 1 and flip."
    )
    protocol.add_argument("--segments", type=_positive, metavar="N", help="pieces spread over a window that are scored")
    protocol.add_argument("--crops", type=int, choices=(1, 3, 5), help="crops of each piece")
    protocol.add_argument("--flip", action=argparse.BooleanOptionalAction, help="score the mirror image too")


def _predict(given: Given) -> None:
    sources = list(_sources(given.videos))
    if given.annotate:
        from twostream.inference.annotate import check_target

        if len(sources) != 1 or isinstance(sources[0], int):
            raise UserError(f"--annotate writes one copy of one video file, and there are {len(sources)} sources given")
        check_target(given.annotate, sources[0])
    from twostream.inference.predict import Predictor

    predictor = Predictor(given.models, given.split, given.accelerator, _score(given), progress=True)
    failed = 0
    for source in sources:
        try:
            if isinstance(source, int):
                _predict_camera(predictor, source, given)
            else:
                _predict_file(predictor, source, given)
        except UserError as error:
            failed += 1
            _say_error(error)
    if failed == len(sources):
        sys.exit(2)


def _sources(names: Sequence[str]) -> Iterator[Path | int]:
    """Files and cameras in the order given; a folder is the videos in it and in the folders in it, sorted by path."""
    from twostream.datasets import is_video

    for name in names:
        if name.isdecimal() and not os.path.exists(name):
            yield int(name)
        elif os.path.isdir(name):
            found = sorted(Path(folder, file) for folder, _, files in os.walk(name) for file in files if is_video(file))
            if not found:
                raise UserError(f"{name}: there is no video in this folder; give one that holds some, or a file")
            yield from found
        else:
            yield Path(name)


def _score(given: Given) -> Score | None:
    """The test protocol with what the command line says of it; None where it says nothing."""
    said = {key: getattr(given, key) for key in ("segments", "crops", "flip") if getattr(given, key) is not None}
    if not said:
        return None
    from pydantic import ValidationError

    from twostream.inference.predict import protocol_beside
    from twostream.params import Score

    rest = {} if len(said) == 3 else protocol_beside(given.models).model_dump()
    try:
        return Score.model_validate({**rest, **said})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['input']} - {first['msg']}") from None


def _predict_file(predictor: Predictor, source: Path, given: Given) -> None:
    prediction = predictor.predict(source, given.every)
    if prediction.warning:
        print(f"WARNING: {source}: {prediction.warning}", file=sys.stderr)
    if given.json:
        print(json.dumps(prediction.to_dict(given.top), ensure_ascii=False), flush=True)
    else:
        print(_table(prediction, predictor, given.top), flush=True)
    if given.annotate:
        from twostream.inference.annotate import annotate

        annotate(predictor, prediction, given.annotate, progress=True)
        print(f"{given.annotate}: written", file=sys.stderr)


def _predict_camera(predictor: Predictor, camera: int, given: Given) -> None:
    from twostream.inference.predict import window_dict

    if not given.json:
        print(f"camera {camera}; Ctrl-C ends it", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        for window in predictor.windows(camera, given.every):
            if given.json:
                print(json.dumps({"camera": camera, **window_dict(window, predictor.classes, given.top)}), flush=True)
            else:
                print(_window_line(window, predictor), flush=True)


def _table(prediction: Prediction, predictor: Predictor, count: int) -> str:
    """What fusion holds likeliest, with each stream's probability beside it; and a line a window if there are several.

    Under the classes stands the likeliest class of each opinion by itself.
    """
    names = ["fusion", *predictor.streams]
    said = {name: prediction.probabilities(name) for name in names}
    tops = [name for name, _ in prediction.top(count)]
    label = max(len("class"), *(len(_shown(name)) for name in tops))
    wide = {name: max(len(name), 6) for name in names}
    lines = [f"{_shown(prediction.source)}: {prediction.windows[-1].end:.2f} s, {len(prediction.times)} frames"]
    lines += ["  ".join([f"  {'class':<{label}}", *(f"{name:>{wide[name]}}" for name in names)])]
    for top in tops:
        at = prediction.classes.index(top)
        shares = [f"{_percent(said[name][at]):>{wide[name]}}" for name in names]
        lines.append("  ".join([f"  {_shown(top):<{label}}", *shares]))
    for name in predictor.streams:
        lines.append(f"  {name} alone says {_favourite(said[name], prediction.classes)}")
    if len(prediction.windows) > 1:
        lines += [f"  {_window_line(window, predictor)}" for window in prediction.windows]
    return "\n".join(lines)


def _window_line(window: Window, predictor: Predictor) -> str:
    """`0:05.0 to 0:10.0  wave 98.1%  (spatial: jump 45.0%, temporal: wave 80.2%)`"""
    fused = _favourite(window.probabilities(), predictor.classes)
    alone = [f"{name}: {_favourite(window.probabilities(name), predictor.classes)}" for name in predictor.streams]
    return f"{_clock(window.start)} to {_clock(window.end)}  {fused}  ({', '.join(alone)})"


def _favourite(probabilities: np.ndarray, classes: Sequence[str]) -> str:
    at = int(probabilities.argmax())
    return f"{_shown(classes[at])} {_percent(probabilities[at])}"


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}%"


def _clock(seconds: float) -> str:
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def _shown(name: object) -> str:
    from twostream.report.text import visible

    return visible(name)


def _add_serve(commands: Any) -> None:
    parser = _command(commands, "serve", _serve, "open a page on this machine that predicts dropped videos")
    _add_model_arguments(parser, accelerator=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on, 0 for any free one (8000)")
    parser.add_argument(
        "--max-megabytes", type=_above_zero, default=200, metavar="MB", help="largest video taken (200)"
    )
    parser.add_argument("--max-seconds", type=_above_zero, default=300, metavar="S", help="longest video taken (300)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, open no browser")


def _serve(given: Given) -> None:
    from twostream.inference.serve import serve

    limits = given.max_megabytes, given.max_seconds
    serve(given.models, given.split, given.host, given.port, *limits, open_browser=not given.no_browser)


def _add_export(commands: Any) -> None:
    parser = _command(commands, "export", _export, "write the trained networks as ONNX files")
    _add_model_arguments(parser, accelerator=False)
    out = parser.add_argument("--out", type=Path, default=Path("exported"), metavar="DIR", help="where to (exported)")
    out.complete = shtab.DIRECTORY


def _export(given: Given) -> None:
    from twostream.inference.predict import Predictor

    predictor = Predictor(given.models, given.split, "cpu")
    from twostream.inference.export import DESCRIPTION, export

    for done in export(predictor, given.out):
        print(f"{done.path}: logits differ from PyTorch's by at most {done.difference:.1e}")
    print(f"{given.out / DESCRIPTION}: classes, input shapes, test protocol and fusion")


def _add_completion(commands: Any) -> None:
    parser = _command(
        commands,
        "completion",
        _completion,
        "print what makes a shell complete these commands",
        epilog='bash: eval "$(twostream completion bash)" in ~/.bashrc; zsh: write it to a file _twostream in $fpath.',
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def _completion(given: Given) -> None:
    print(shtab.complete(make_parser(), given.shell))


def _add_model_arguments(parser: argparse.ArgumentParser, accelerator: bool = True) -> None:
    models = parser.add_argument(
        "--models", type=Path, default=Path("models"), metavar="DIR", help="the models (models)"
    )
    models.complete = shtab.DIRECTORY
    parser.add_argument("--split", type=_positive, default=1, metavar="N", help="the split they were trained on (1)")
    if accelerator:
        parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="where to run (auto)")


def _say_error(error: UserError) -> None:
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
