"""How a figure moves: the pose over time, whose single frames cannot tell the motion.

A figure's pose is a point (side, crouch, depth), each coordinate `a sin(phase)` with its phase uniform over the
circle. A motion is the one coordinate whose phase runs at about a cycle in 16 frames while the other two creep. At any
one frame the joint distribution of the three is therefore the same for every motion: a single frame cannot tell the
motion, however good the network.
"""

from __future__ import annotations

import numpy as np


def draw_pose(motion: str, frames: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The figure's coordinates over time, `[T]` each in -1 to 1; the module's docstring says why only one swings."""
    t = np.arange(frames)
    tempo = 2 * np.pi / rng.uniform(13, 19)

    def swing(fast: bool, low: float = 0.75) -> np.ndarray:
        # Every draw is made for every motion, so that all motions use the same random numbers in the same way.
        start, creep, amplitude = rng.uniform(0, 2 * np.pi), 2 * np.pi / rng.uniform(160, 320), rng.uniform(low, 1)
        return amplitude * np.sin(start + rng.choice([-1, 1]) * (tempo if fast else creep) * t)

    return {
        "side": swing(motion == "sidestep"),
        "crouch": swing(motion == "squat"),
        "depth": swing(motion == "approach"),
        "stride": swing(motion != "squat", low=0.4),
        "arm": swing(True, low=0.2),
        "reach": swing(False, low=0.2),
        "lean": swing(False, low=0.2),
    }
