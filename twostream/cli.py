"""The command line: `twostream models`, `twostream results`, `twostream check`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from twostream.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run a command; a UserError is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="twostream", description="Two-stream action recognition.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    models = commands.add_parser("models", help="list the networks: modality, input size, number of parameters")
    models.add_argument("--classes", type=_positive, default=51, help="number of classes to count parameters for (51)")
    models.add_argument("--json", action="store_true", help="print JSON instead of a table")
    models.set_defaults(run=lambda given: _models(given.classes, given.json))

    results = commands.add_parser("results", help="print the table of results that `dvc repro` has made")
    results.add_argument("--metrics", default="metrics/metrics.json", help="the metrics file (metrics/metrics.json)")
    results.set_defaults(run=lambda given: _results(Path(given.metrics)))

    check = commands.add_parser("check", help="check a parameter file")
    check.add_argument("file", nargs="?", default="params.yaml", help="the file (params.yaml)")
    check.set_defaults(run=lambda given: _check(given.file))

    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except UserError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `twostream models | head`
        sys.stderr.close()


def _models(classes: int, as_json: bool) -> None:
    from twostream.models import list_models

    rows = list_models(classes)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'name':<36} {'modality':<10} {'input':<18} {'parameters':>12}")
    for row in rows:
        size = "x".join(str(n) for n in row["input"])
        print(f"{row['name']:<36} {row['modality']:<10} {size:<18} {row['parameters']:>12,}")
    print(
        "timm/<name> takes any other 2D network of timm, on RGB frames or on stacked flow; inflated/<name> makes it 3D."
    )


def _results(path: Path) -> None:
    from twostream.evaluation import results_table

    try:
        metrics = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run `dvc repro` first") from None
    print(results_table(metrics, [name for name in metrics if name not in ("fusion", "fusion_gain", "clips")]))


def _check(path: str) -> None:
    from twostream.params import load_params

    params = load_params(path)
    streams = ", ".join([*params.train.rgb, *params.train.flow])
    print(f"{path}: good. Data set {params.dataset.name}, flow {params.flow.method}, streams {streams}")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


if __name__ == "__main__":
    main()
