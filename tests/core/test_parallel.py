"""Work spread over processes: results of all items, and a killed worker said in one line."""

from __future__ import annotations

import os
import signal

import pytest

from twostream.core.parallel import unordered
from twostream.errors import UserError


def _square_or_die(item: int) -> int:
    if item < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_gives_its_result_once(workers):
    assert sorted(unordered(_square_or_die, list(range(7)), workers=workers, what="test")) == [i * i for i in range(7)]


@pytest.mark.slow
def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match="a worker process was killed.*runtime.workers"):
        list(unordered(_square_or_die, [1, -1, 2, 3], workers=2, what="test"))
