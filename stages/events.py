"""Stage: find events in test videos that are annotated in time, and choose how prediction finds events."""

from pathlib import Path

import pandas as pd

from stages.common import open_cache, run
from twostream.datasets.tables import read_clips, read_split, write_table
from twostream.fusion.events import COLUMNS, EventSettings, usual_window, write_settings
from twostream.params import Params


def events(params: Params, split: str) -> None:
    """Write models/events-<n>.json and metrics/events/split<n>.csv: the true and the predicted events of test videos.

    Without clips that are spans of videos, the settings are the usual ones and the table is empty.
    """
    clips, subset = read_clips("data/clips.csv"), read_split(f"data/splits/{split}.csv")
    background = params.dataset.background
    settings = EventSettings(usual_window(clips, subset, background), background=background)
    table = pd.DataFrame(columns=COLUMNS)
    if "start" in clips and settings.window:
        from twostream.inference.predict import Predictor  # imports torch
        from twostream.inference.timeline import measure_events

        models, videos = Path("models"), Path("data/videos")
        predictor = Predictor(models, int(split), params.runtime.accelerator, params.score)
        cache = open_cache().root
        settings, table = measure_events(clips, subset, int(split), settings, predictor, videos, models, cache)
    write_settings(Path(f"models/events-{split}.json"), settings)
    write_table(table, f"metrics/events/split{split}.csv")


if __name__ == "__main__":
    run(events, "split")
