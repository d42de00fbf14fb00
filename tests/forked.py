"""Run Python modules, `dvc` among them, in a project as forks of a process that has loaded the slow libraries.

`dvc repro` starts a process per stage, and on a few small clips nearly all of its time goes into imports. Here DVC and
its stages are the same code of the project, started with `fork` instead.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import runpy
import shlex
import sys
import tempfile
from collections import OrderedDict
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml

_LIBRARIES = """
    av cv2 dvc.cli dvc.commands.repro dvc.repo dvclive jinja2 joblib lightning.pytorch pandas psutil pytest
    scipy.optimize sklearn.linear_model sklearn.svm torchvision tqdm
"""
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(_LIBRARIES.split())


def run_module(project: Path, environment: dict[str, str], *command: str) -> tuple[int, str]:
    """Return the exit code and the output of `python -m command` in a project, with its own `twostream` package."""
    with tempfile.NamedTemporaryFile("r") as log:
        process = start_module(project, environment, log.name, *command)
        process.join()
        return process.exitcode, log.read()


def start_module(project: Path, environment: dict[str, str], log: str, *command: str) -> BaseProcess:
    """Start `python -m command` in a project; the process leads a group of its own, and its output goes to `log`."""
    process = _FORKS.Process(target=_enter, args=(project, log, environment, command))
    process.start()
    return process


def _enter(project: Path, log: str, environment: dict[str, str], command: tuple[str, ...]) -> None:
    os.setsid()
    gc.freeze()  # or garbage collections would copy the pages of what the libraries made
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.path.insert(0, str(project))
    if command[0] == "dvc":
        _make_dvc_fast()
    _run(project, environment, command)


def _make_dvc_fast() -> None:
    """Have DVC start its stages by `_run_stage`, and read and write YAML by a library in C."""
    from dvc.stage import run
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml

    def parse(text: str, path: str, typ: str = "") -> dict:
        return yaml.load(text, yaml.CSafeLoader) or {}

    run._run = _run_stage
    _yaml.parse_yaml = _yaml.parse_yaml_for_update = strictyaml.parse_yaml = parse
    # As DVC's own library writes them: dvc.lock must not depend on which of the two wrote it.
    yaml.CSafeDumper.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "")
    )
    yaml.CSafeDumper.add_representer(OrderedDict, lambda dumper, data: dumper.represent_dict(data.items()))
    _yaml._dump = lambda data, stream: yaml.dump(data, stream, yaml.CSafeDumper, sort_keys=False)


def _run(folder: Path, environment: dict[str, str], command: tuple[str, ...]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
        del sys.modules[name]  # it reads its settings from the environment when it is imported
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _run_stage(_: str, command: str, *, cwd: str, env: dict[str, str], **_options: object) -> None:
    """Take the place of the function of DVC that starts a shell."""
    import torch
    from dvc.stage.exceptions import StageCmdFailedError

    python, option, *module = shlex.split(command)
    assert (python, option) == ("python", "-m")
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        gc.freeze()
        torch.set_num_threads(1)  # two that wait for each other cost twice the time on tensors of a few numbers
        code: object = 1
        try:
            _run(Path(cwd), env, tuple(module))
            code = 0
        except SystemExit as exit:
            code = exit.code or 0
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    _, status = os.waitpid(process, 0)
    if status:
        raise StageCmdFailedError(command, os.waitstatus_to_exitcode(status))
