"""How a figure moves: the pose over time, whose single frames do not show the motion.

A figure's pose is a point (side, crouch, depth), each coordinate `a sin(phase)` with its phase uniform over the
circle. The motion is the one coordinate that swings, with a cycle of 11 to 20 frames, while the other two drift. In
any one frame the joint distribution of the three is therefore the same for every motion: no network can recognise the
motion from a single frame.
"""

from __future__ import annotations

import numpy as np


def draw_pose(motion: str, frames: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the figure's coordinates over time, `[T]` each in -1 to 1; see above why only one of three swings."""
    t = np.arange(frames)
    tempo = 2 * np.pi / rng.uniform(11, 20)

    def coordinate(swings: bool, low: float = 0.5) -> np.ndarray:
        # Every draw is made for every motion, so that all motions use the same random numbers in the same way.
        start, drift, amplitude = rng.uniform(0, 2 * np.pi), 2 * np.pi / rng.uniform(120, 300), rng.uniform(low, 1)
        return amplitude * np.sin(start + rng.choice([-1, 1]) * (tempo if swings else drift) * t)

    return {
        "side": coordinate(motion == "sidestep"),
        "crouch": coordinate(motion == "squat"),
        "depth": coordinate(motion == "approach"),
        "stride": coordinate(motion != "squat", low=0.4),
        "arm": coordinate(True, low=0.2),
        "reach": coordinate(False, low=0.2),
        "lean": coordinate(False, low=0.2),
    }


def walking_pose(frames: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the coordinates over time, `[T]` each, of a person who walks upright and whose arms hang down."""
    stride = np.sin(rng.uniform(0, 2 * np.pi) + np.arange(frames) * 2 * np.pi / rng.uniform(11, 16))
    still = np.zeros(frames)
    return {"crouch": still - 0.9, "stride": 2 * stride, "arm": 0.5 * stride, "reach": 0.5 * stride - 4, "lean": still}
