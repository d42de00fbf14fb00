"""The flow methods that the benchmarks compare, by name; `params.yaml` has no say in them."""

from __future__ import annotations

import difflib
from pathlib import Path

from twostream.errors import UserError
from twostream.params import Dis, Farneback, Flow, Raft, Section, Tvl1, Tvl1OpenCv, load_params

PROFILE = Path(__file__).parents[1] / "profiles" / "hmdb51.yaml"


def flow_settings(name: str, **changes: object) -> Flow:
    """The section `flow` for a named method: on the CPU, unless `changes` says otherwise.

    Raises:
        UserError: there is no such name.
    """
    methods = _methods()
    if name not in methods:
        close = difflib.get_close_matches(name, methods, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(methods)}"
        raise UserError(f"--methods: {name!r} is not one; {hint}")
    method, section = methods[name]
    return load_params(PROFILE).flow.model_copy(update={"method": method, method: section, "device": "cpu", **changes})


def _methods() -> dict[str, tuple[str, Section]]:
    # OpenCV's own defaults, spelled out so that a profile cannot move the yardstick.
    opencv = Tvl1OpenCv(
        **{"tau": 0.25, "lambda": 0.15, "theta": 0.3, "scales": 5, "scale_step": 0.8, "warps": 5, "epsilon": 0.01},
        inner_iterations=30,
        outer_iterations=10,
        median_filtering=5,
    )
    # As accurate in about a quarter of the time: whoever knows OpenCV's TV-L1 well runs it like this.
    quick = {"scale_step": 0.5, "warps": 3, "outer_iterations": 2, "inner_iterations": 10}
    farneback = Farneback(pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2)
    presets_value = dict.fromkeys(field.alias or name for name, field in Tvl1.model_fields.items())
    return {
        **{f"tvl1-{p}": ("tvl1", Tvl1(**{**presets_value, "preset": p})) for p in ("fast", "balanced", "accurate")},
        "tvl1_opencv": ("tvl1_opencv", opencv),
        "tvl1_opencv-quick": ("tvl1_opencv", opencv.model_copy(update=quick)),
        "farneback": ("farneback", farneback),
        "farneback_opencv": ("farneback_opencv", farneback),
        **{f"dis-{preset}": ("dis", Dis(preset=preset)) for preset in ("medium", "fast", "ultrafast")},
        **{f"raft-{m}": ("raft", Raft(model=m, weights="pretrained", updates=12)) for m in ("small", "large")},
    }
