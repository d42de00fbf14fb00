"""Spread work over the workers of a Dask cluster, which see the project's folder at the same path."""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twostream.core.allocator import undo_dasks_setting
from twostream.errors import UserError, reason

if TYPE_CHECKING:
    from distributed import Client

VARIABLE = "TWOSTREAM_CLUSTER"  # the environment variable with the scheduler's address, or the path of its file
_ANSWER_S = 15  # seconds that a scheduler has to answer
_MOST_PER_TASK = 8  # a lost worker costs the tasks that it had

Item = TypeVar("Item")
Result = TypeVar("Result")


def scheduler() -> str:
    """Return the address or the file of the scheduler to use; empty: work stays on this machine."""
    return os.environ.get(VARIABLE, "")


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], what: str, most_per_task: int = _MOST_PER_TASK
) -> Iterator[Result]:
    """Yield `work(item)` of all items in the order in which they finish.

    Several items make a task. Dask gives the tasks of a lost worker to others.

    Raises:
        UserError: no scheduler or no worker answers, a worker has another version of the code or does not see this
            folder, or workers died again and again.
    """
    try:
        from distributed import as_completed
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise UserError(
            f"{VARIABLE} is set, but distributed is not installed: pip install '.[cluster]' in the project"
        ) from None
    with _connect(scheduler()) as client:
        _check_workers(client)
        threads = max(1, sum(client.nthreads().values()))
        size = max(1, min(most_per_task, len(items) // (128 * threads)))  # small, so that all end at about one time
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        tasks = [client.submit(_run, os.getcwd(), work, chunk, pure=False) for chunk in chunks]
        try:
            for _, results in as_completed(tasks, with_results=True):
                yield from results
        except KilledWorker:
            raise UserError(
                f"{what}: workers of the cluster died again and again at the same clips, usually because memory ran "
                "out; give them more, and run again: finished work is kept"
            ) from None
        finally:
            client.cancel(tasks)


def _connect(address: str) -> Client:
    from distributed import Client

    where = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
    try:
        client = Client(**where, timeout=_ANSWER_S)
    except (OSError, ValueError) as error:
        raise UserError(f"{VARIABLE}: no scheduler answers at {address!r} ({reason(error)})") from None
    try:
        client.wait_for_workers(1, timeout=60)
    except TimeoutError:
        client.close()
        raise UserError(f"{VARIABLE}: the scheduler at {address!r} has no workers; start some") from None
    return client


def _check_workers(client: Client) -> None:
    """Raise a UserError that names a worker with other code, or one that does not see this folder."""
    mark = Path(f".twostream-{secrets.token_hex(8)}")
    mark.touch()
    try:
        seen = client.run(_look, os.getcwd(), mark.name, on_error="return")
    finally:
        mark.unlink()
    code = _look(os.getcwd(), "")[1]
    for worker, found in seen.items():
        if isinstance(found, BaseException) or found[1] != code:
            why = f" ({reason(found)})" if isinstance(found, BaseException) else ""
            raise UserError(
                f"{VARIABLE}: worker {worker} does not have this version of twostream{why}; start it again, in the "
                "environment of this project"
            )
        if not found[0]:
            raise UserError(f"{VARIABLE}: worker {worker} does not see the folder {os.getcwd()}; mount it there too")


def _look(folder: str, mark: str) -> tuple[bool, str]:
    """Return whether a file is in a folder, and a digest of the library's code; runs on a worker."""
    return Path(folder, mark).exists(), _code()


@functools.cache
def _code() -> str:
    """Return a digest of the code that this process has loaded; files that are edited later do not count."""
    import twostream

    digest = hashlib.sha256()
    for file in sorted(Path(twostream.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _run(folder: str, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Run the items of a task; runs on a worker."""
    os.chdir(folder)
    undo_dasks_setting()
    return [work(item) for item in items]
