"""Weights of the streams in a fusion: temperatures that calibrate them, and the choice of a weight for each.

A stream is calibrated with one temperature (Guo et al. 2017, On Calibration of Modern Neural Networks), so that it does
not outvote the others by the mere scale of its logits. Weights are vectors from a grid, compared on validation clips.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from twostream.fusion.scores import Scores

if TYPE_CHECKING:
    from twostream.fusion.methods import Fusion

CURVE_COLUMNS = ["stream", "weight", "top1", "nll", "chosen"]

MAX_GRID = 1001  # weight vectors tried: a grid of tenths for five streams, and seconds of work at the size of UCF101
PLAUSIBLE = 1.92  # nats: half the 95 % quantile of chi-squared(1); a likelihood ratio test cannot tell less from zero
LOG_TEMPERATURE_STD = 2.0  # of the normal prior on a temperature's natural logarithm, around 0; weaker than ten clips


class Validation(NamedTuple):
    """The clips on which K streams are fused: names, C class names, labels [N] and logits float64 [K, N, C]."""

    streams: tuple[str, ...]
    classes: tuple[str, ...]
    label: np.ndarray
    logits: np.ndarray


def validation_of(streams: dict[str, Scores]) -> Validation:
    """Return the clips of aligned streams that a fusion is fitted on, sorted by clip id, whatever the files' order.

    These are the validation clips; where all streams have out-of-fold logits for their training clips, those too
    (stacking: Wolpert 1992, Stacked Generalization). On thirty clips the choice of weights is luck as much as skill.
    """
    val = {name: scores.take(scores.subset != "test") for name, scores in streams.items()}
    first = next(iter(val.values()))
    order = np.argsort(first.clip_id)
    logits = np.stack([scores.logits[order].astype(np.float64) for scores in val.values()])
    return Validation(tuple(val), tuple(first.classes.tolist()), first.label[order], logits)


def proven_streams(streams: dict[str, Scores]) -> dict[str, float]:
    """Return the streams that beat a uniform guess out of fold on all training clips, with their temperatures there.

    Empty where all streams have out-of-fold logits: the fusion is then fitted on these clips anyway. Else it has the
    validation clips alone, and on thirty clips a stream that is good can look useless.

    Args:
        streams: before :func:`twostream.fusion.scores.align`, which drops the training clips that only some have.
    """
    with_training = [name for name, scores in streams.items() if "train" in scores.subset]
    if len(with_training) == len(streams):
        return {}
    fitted = {name: validation_of({name: streams[name]}) for name in with_training}
    return {name: float(fit_temperatures(val)[0][0]) for name, val in fitted.items() if useful_streams(val).size}


def useful_streams(val: Validation) -> np.ndarray:
    """Return the indices of the streams that beat a uniform guess by a plausible difference."""
    uniform = -len(val.label) * math.log(len(val.classes))
    return np.flatnonzero(fit_temperatures(val)[1] - uniform > PLAUSIBLE)


def fit_temperatures(val: Validation) -> tuple[np.ndarray, np.ndarray]:
    """Return each stream's temperature [K] and its log-likelihood of the labels at that temperature [K], in nats."""
    fits = [fit_inverse_temperature(logits, val.label) for logits in val.logits]
    return nine_digits([1 / scale for scale, _ in fits]), np.array([log_likelihood for _, log_likelihood in fits])


def fit_inverse_temperature(logits: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Return the factor on the logits [N, C] that maximises the likelihood of the labels, and its logarithm (nats).

    A weak prior on the factor's logarithm (:data:`LOG_TEMPERATURE_STD`) keeps the factor finite where all clips are
    right or all are wrong.
    """
    from scipy.optimize import minimize_scalar

    shifted = logits - logits.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(label)), label]

    def log_likelihood(log_scale: float) -> float:
        scale = math.exp(log_scale)
        return float((scale * true - np.log(np.exp(scale * shifted).sum(axis=1))).sum())

    def loss(log_scale: float) -> float:
        return 0.5 * (log_scale / LOG_TEMPERATURE_STD) ** 2 - log_likelihood(log_scale)

    best = float(minimize_scalar(loss, bounds=(-12, 12), method="bounded", options={"xatol": 1e-8}).x)
    return math.exp(best), log_likelihood(best)


def calibrate(logits: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """Return logits [K, N, C] over each stream's temperature [K], with zero mean over classes."""
    scaled = logits / temperature[:, None, None]
    return scaled - scaled.mean(axis=2, keepdims=True)


def try_weights(
    calibrated: np.ndarray, label: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evaluate each weight vector of `grid` [M, K] on calibrated validation logits [K, N, C].

    The inverse temperature is fitted for each vector because weights of sum 1 flatten streams that confirm each other:
    without it the likelihood would prefer a single confident stream to two that are right together.

    Returns:
        For each vector, whether the top class of each clip is the true one (bool [M, N]), the log-likelihood of the
        true classes ([M], nats), and the inverse temperature [M].
    """
    right, fits = np.empty((len(grid), len(label)), bool), np.empty((len(grid), 2))
    for row, weights in enumerate(tqdm(grid, desc="fusion weights", delay=2, leave=False)):
        fused = np.tensordot(weights, calibrated, axes=1)
        right[row] = fused.argmax(axis=1) == label
        fits[row] = fit_inverse_temperature(fused, label)
    return right, fits[:, 1], fits[:, 0]


def choose_weights(weights: np.ndarray, right: np.ndarray, log_likelihood: np.ndarray, cautious: bool = False) -> int:
    """Return the row of the weight vector to use, of M vectors over K streams that were tried on N validation clips.

    The vector of the best validation top-1 overfits: on a hundred clips that accuracy is a plateau with noise on it.
    Even weights of calibrated streams are hard to beat, so they are used unless validation speaks against them.

    Args:
        weights: [M, K], even weights among them.
        right, log_likelihood: of :func:`try_weights`; N >= 1.
        cautious: take the plausible vector nearest to even weights, which leaves out fewer streams.
    """
    accuracy = right.mean(axis=1)
    best = np.lexsort((-log_likelihood, -accuracy))[0]
    gained, lost = (right & ~right[best]).sum(axis=1), (~right & right[best]).sum(axis=1)
    # Accurate: top-1 within two standard errors of the best vector's, from the clips where just one is right (McNemar).
    accurate = lost - gained <= 2 * np.sqrt(lost + gained)
    # Plausible: of these, a likelihood near the largest one, since it also sees how confident the predictions are.
    plausible = accurate & (log_likelihood >= log_likelihood[accurate].max() - PLAUSIBLE)

    distance = ((weights - 1 / weights.shape[1]) ** 2).sum(axis=1)
    even = int(distance.argmin())
    used = (weights > 0).sum(axis=1)
    # Even weights over fewer streams. On thirty clips a stream that is little better than chance is still plausible at
    # an even weight, and costs points.
    smallest = np.where(weights > 0, weights, np.inf).min(axis=1)
    subsets = (used < used[even]) & (smallest > weights.max(axis=1) - 1e-9)
    if cautious:
        return int(np.where(plausible, distance, np.inf).argmin())
    if plausible[even] and not (log_likelihood[subsets] > log_likelihood[even]).any():
        return even

    # Sparse: of the plausible, the fewest streams, so that a stream that adds nothing to the others has weight 0.
    sparse = np.flatnonzero(plausible & (used == used[plausible].min()))
    # Rounded, so that vectors that are equal up to the order of additions are ordered by their distance from even.
    return int(sparse[np.lexsort((distance[sparse], -log_likelihood[sparse].round(9)))[0]])


def weight_grid(streams: int, step: float) -> np.ndarray:
    """Return all weight vectors [M, K] of sum 1 in steps of 1/n, the nearest to `step`, in lexicographic order.

    More than :data:`MAX_GRID` vectors are too many: then the step is the finest that is not, and a line reports it.
    """
    parts = wanted = max(round(1 / step), 1)
    while math.comb(parts + streams - 1, streams - 1) > MAX_GRID and parts > 1:
        parts -= 1
    if parts < wanted:
        print(f"fusion: a step of {step:g} is too fine for {streams} streams; weights are tried in steps of 1/{parts}")
    return np.array(list(_compositions(parts, streams)), np.float64) / parts


def _compositions(total: int, parts: int) -> Iterator[list[int]]:
    """Yield every way to write `total` as an ordered sum of `parts` whole numbers, 0 included (stars and bars)."""
    for bars in combinations(range(total + parts - 1), parts - 1):
        edges = (-1, *bars, total + parts - 1)
        yield [after - before - 1 for before, after in zip(edges, edges[1:], strict=False)]


def weight_curve(fusion: Fusion, streams: dict[str, Scores], *, step: float) -> pd.DataFrame:
    """Return validation top-1 and log-loss as functions of the weights, for a plot.

    Columns :data:`CURVE_COLUMNS`: `stream`, its `weight` from 0 to 1, `top1` (fraction), `nll` (mean over clips, nats),
    `chosen` (bool: the weights of a `weighted` fusion; no row is chosen for other methods). For two streams the weight
    is the second one's and the first has the rest. For more there is one curve per stream: at each of its weights, the
    weights of the others with the lowest log-loss (a profile likelihood). The streams are calibrated as for
    `weighted`, whatever the method of `fusion`; fewer than 2 validation clips give no rows.
    """
    val = validation_of(streams)
    clips, count = len(val.label), len(val.streams)
    if clips < 2:
        return pd.DataFrame(columns=CURVE_COLUMNS)
    grid, used = weight_grid(count, step), np.full(count, np.nan)
    if fusion.method == "weighted" and fusion.weights is not None:
        used = fusion.weights
        grid = np.vstack([used, grid[np.abs(grid - used).max(axis=1) > 1e-6]])
    right, log_likelihood, _ = try_weights(calibrate(val.logits, fit_temperatures(val)[0]), val.label, grid)
    rows = []
    for k in [1] if count == 2 else range(count):
        rounded = grid[:, k].round(6)
        for weight in np.unique(rounded):
            candidates = np.flatnonzero(rounded == weight)
            chosen = candidates[(grid[candidates] == used).all(axis=1)]
            best = chosen[0] if chosen.size else candidates[log_likelihood[candidates].argmax()]
            top1 = round(float(right[best].mean()), 6)
            nll = round(float(-log_likelihood[best] / clips), 6)
            rows.append((val.streams[k], float(weight), top1, nll, bool(chosen.size)))
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


def nine_digits(values: np.ndarray | list[float]) -> np.ndarray:
    """Return the values with nine significant digits: what is written to JSON is what is applied."""
    return np.vectorize(lambda value: float(f"{value:.9g}"), otypes=[np.float64])(values)
