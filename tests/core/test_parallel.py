"""Work spread over processes: results of all items, and a killed worker said in one line."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from twostream.core.parallel import in_threads, unordered
from twostream.errors import UserError


def _square_or_die(item: int) -> int:
    if item < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_gives_its_result_once(workers):
    assert sorted(unordered(_square_or_die, list(range(7)), workers=workers, what="test")) == [i * i for i in range(7)]


@pytest.mark.parametrize("count", [0, 1, 3, 100, 1000])
def test_threads_give_the_results_in_order(count):
    items = list(range(count))
    assert in_threads(str, items, workers=3, what="test") == [str(item) for item in items]


def test_few_items_are_spread_over_all_threads():
    meet = threading.Barrier(4, timeout=30)  # each of the four waits for the others
    assert len(in_threads(lambda _: meet.wait(), range(4), workers=4, what="test")) == 4


@pytest.mark.slow
def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match="a worker process was killed.*runtime.workers"):
        list(unordered(_square_or_die, [1, -1, 2, 3], workers=2, what="test"))
