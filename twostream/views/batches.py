"""Batches of views in order, from processes that load ahead or, where there can be none, from this one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader

from twostream.views.loading import ScoringViews, make_loader


def batches(views: ScoringViews, batch_size: int, workers: int | None) -> Iterable[Any]:
    """Return the batches of a data set; `workers` as for `make_loader`, None: load in this process.

    Workers of a cluster are processes that may have none of their own.
    """
    if workers is None:
        return DataLoader(views, batch_size)
    return make_loader(views, batch_size, workers)
