"""Late fusion: one opinion out of the logits of several streams, fitted on validation clips alone.

Four methods, by what they learn from validation:

- `average`: nothing. The mean of the streams' softmax probabilities (Simonyan & Zisserman 2014, section 5).
- `weighted`: one number a stream. Calibrated log-probabilities are added with weights from a grid; see
  :func:`choose_weights`. For streams that err independently this is Bayes' rule; a mean of probabilities is not.
- `logreg`: multinomial logistic regression on the streams' calibrated logits, shrunk towards their even sum. Shrunk
  towards zero, as usual, it loses to the better stream alone until validation has dozens of clips a class.
- `svm`: linear SVM on the streams' L2-normalised softmax scores (Simonyan & Zisserman 2014, section 5).

Streams are calibrated before `weighted` and `logreg` with one temperature each (Guo et al. 2017, On Calibration of
Modern Neural Networks), so that a stream does not outvote the others by the mere scale of its logits.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from twostream.errors import UserError
from twostream.fusion.scores import Scores, align, log_softmax

METHODS = ("average", "weighted", "logreg", "svm")

MAX_GRID = 1001  # mixtures tried: a grid of tenths for five streams, and seconds of work at the size of UCF101
PLAUSIBLE = 1.92  # nats: half the 95 % quantile of chi-squared; a likelihood ratio test does not tell less from nothing
SCALE_PRIOR = 2.0  # standard deviation of the natural logarithm of a temperature, around 1: weaker than ten clips
CURVE_COLUMNS = ["stream", "weight", "top1", "nll", "chosen"]


@dataclass(frozen=True, eq=False)
class Fusion:
    """A fitted fusion: plain numbers that turn the logits of `streams` into fused logits.

    Attributes:
        method: one of :data:`METHODS`; `average` also where there was too little validation to fit what was asked for.
        streams: names of the K streams, in the order of everything below.
        classes: names of the C classes.
        temperature: [K], by which each stream's logits are divided; ones where the method does not calibrate.
        weights: [K], not negative, sum 1; even for `average` and `logreg`, absent for `svm`.
        sharpness: by which `weighted` and `logreg` multiply the weighted sum; K for independent streams of even weight.
        known: [P] indices of the classes that validation held; for `logreg` and `svm`, like the next two.
        coef: [P, K * C] one row a known class, over the features of all streams in order.
        intercept: [P].
    """

    method: str
    streams: tuple[str, ...]
    classes: tuple[str, ...]
    temperature: np.ndarray
    weights: np.ndarray | None = None
    sharpness: float | None = None
    known: np.ndarray | None = None
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None

    def fuse(self, logits: dict[str, np.ndarray]) -> np.ndarray:
        """Fused logits [N, C] float32 from each stream's [N, C].

        They are log-probabilities, for `svm` decision values. Of a class that validation did not hold `logreg` says
        what the even sum says; `svm` gives it -1, the decision of a machine that was shown no example of its class.

        Raises:
            KeyError: a stream is lacking.
        """
        parts = [np.asarray(logits[name], np.float64) for name in self.streams]
        if self.method == "average":
            return _average(parts).astype(np.float32)
        if self.method == "svm":
            fused = np.full(parts[0].shape, -1.0)
            fused[:, self.known] = _normalised(parts) @ self.coef.T + self.intercept
            return fused.astype(np.float32)
        calibrated = _calibrated(parts, self.temperature)
        fused = self.sharpness * _mix(calibrated, self.weights)
        if self.method == "logreg":
            fused[:, self.known] += np.concatenate(list(calibrated), axis=1) @ self.coef.T + self.intercept
        return log_softmax(fused).astype(np.float32)

    def apply(self, streams: dict[str, Scores]) -> Scores:
        """The fused scores of all clips, in the order of the first fused stream. Further streams are ignored.

        Raises:
            UserError: a stream is lacking, has other classes than the fusion, or does not fit the others
                (see :func:`twostream.fusion.scores.align`).
        """
        aligned = align(_chosen(streams, self.streams))
        first = aligned[self.streams[0]]
        if tuple(first.classes.tolist()) != self.classes:
            raise UserError(
                f"stream {self.streams[0]!r} was scored on other classes ({len(first.classes)}) than the fusion was "
                f"fitted on ({len(self.classes)}); fit the fusion again"
            )
        fused = self.fuse({name: scores.logits for name, scores in aligned.items()})
        return Scores(first.clip_id, first.label, first.classes, first.subset, fused)

    def to_json(self) -> str:
        """All of it as JSON text, a line a field; the same fusion gives the same text."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in fields.items() if v is not None}
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in plain.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Fusion:
        """The fusion that :meth:`to_json` wrote; it fuses to the same bits.

        Raises:
            ValueError: the text is not JSON, or its numbers do not fit together.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not a mapping")
        expected = {"method", "streams", "classes", "temperature"} | _NUMBERS.get(str(data.get("method")), set())
        if data.get("method") not in METHODS or set(data) != expected:
            raise ValueError(f"method {data.get('method')!r} with {', '.join(data)}; written by another version?")
        for name in ("temperature", "weights", "coef", "intercept"):
            if name in data:
                data[name] = np.asarray(data[name], np.float64)
        if "known" in data:
            data["known"] = np.asarray(data["known"], np.int64)
        fusion = cls(**{**data, "streams": tuple(data["streams"]), "classes": tuple(data["classes"])})
        fusion._check_shapes()
        return fusion

    def _check_shapes(self) -> None:
        streams, classes = len(self.streams), len(self.classes)
        known = 0 if self.known is None else self.known.size
        right = {
            "temperature": (streams,),
            "weights": (streams,),
            "known": (known,),
            "coef": (known, streams * classes),
            "intercept": (known,),
        }
        for name, shape in right.items():
            array = getattr(self, name)
            if array is not None and (array.shape != shape or not np.isfinite(array).all()):
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}, all finite")
        if known and (self.known.min() < 0 or self.known.max() >= classes):
            raise ValueError(f"known names a class beyond the {classes}")
        if self.sharpness is not None and not (isinstance(self.sharpness, float) and math.isfinite(self.sharpness)):
            raise ValueError(f"sharpness is {self.sharpness!r}, not a number")


_NUMBERS = {
    "average": {"weights"},
    "weighted": {"weights", "sharpness"},
    "logreg": {"weights", "sharpness", "known", "coef", "intercept"},
    "svm": {"known", "coef", "intercept"},
}


def write_fusion(path: str | Path, fusion: Fusion) -> None:
    """Write :meth:`Fusion.to_json` beside its place, then rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(fusion.to_json(), encoding="utf-8", newline="\n")
    os.replace(beside, path)


def read_fusion(path: str | Path) -> Fusion:
    """Read a fusion file. Raises UserError (one line) if it is missing, damaged or inconsistent."""
    try:
        return Fusion.from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problem = error.strerror or str(error)
    except (ValueError, TypeError, KeyError) as error:
        problem = " ".join(str(error).split())
    raise UserError(f"{path}: not a usable fusion ({problem}); run `dvc repro` to make it again")


def fit_fusion(method: str, streams: dict[str, Scores], *, step: float, c: float, seed: int) -> Fusion:
    """Fit a fusion of all `streams` on their `val` clips; their `test` clips are never looked at.

    Too little validation for the method (fewer than 2 clips, for `svm` also fewer than 2 classes) gives `average` and a
    printed line.

    Args:
        method: one of :data:`METHODS`.
        streams: name to scores, K >= 1 of them.
        step: grid of the weights of `weighted`; see :func:`choose_weights`.
        c: inverse strength of the L2 penalty of `logreg` and `svm`.
        seed: of the SVM's coordinate descent.

    Raises:
        UserError: the streams do not fit each other (see :func:`twostream.fusion.scores.align`).
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    names, classes, label, parts = _validation(streams)
    even = np.full(len(names), 1 / len(names))
    average = Fusion("average", names, classes, np.ones(len(names)), weights=_plain(even))
    if method == "average":
        return average
    held = len(np.unique(label))
    if len(label) < 2 or (method == "svm" and held < 2):
        print(f"fusion: {len(label)} validation clips of {held} classes are too few for {method}; streams are averaged")
        return average
    if method == "svm":
        return Fusion("svm", names, classes, np.ones(len(names)), **_support_vectors(parts, label, c, seed))
    fits = [_fit_scale(part, label) for part in parts]
    temperature = _plain([1 / scale for scale, _ in fits])
    calibrated = _calibrated(parts, temperature)
    if method == "logreg":
        sharpness = _plain(_fit_scale(_mix(calibrated, even), label)[0])
        numbers = _logistic_regression(calibrated, sharpness * _mix(calibrated, even), label, c)
        return Fusion("logreg", names, classes, temperature, weights=_plain(even), sharpness=sharpness, **numbers)
    earned = np.array([log_likelihood for _, log_likelihood in fits]) + len(label) * math.log(len(classes))
    useful = np.flatnonzero(earned > PLAUSIBLE)
    if not useful.size:
        useful = np.arange(len(names))
    simplex = np.vstack([np.full(len(useful), 1 / len(useful)), _simplex(len(useful), step)])
    grid = np.zeros((len(simplex), len(names)))
    grid[:, useful] = simplex
    tried = _try_mixtures(calibrated, label, grid)
    row = choose_weights(simplex, tried.right, tried.log_likelihood)
    return Fusion(
        "weighted", names, classes, temperature, weights=_plain(grid[row]), sharpness=_plain(tried.sharpness[row])
    )


def choose_weights(weights: np.ndarray, right: np.ndarray, log_likelihood: np.ndarray) -> int:
    """The rule by which `weighted` takes one of M mixtures of the streams that are useful.

    A stream whose calibrated scores do not beat a uniform guess by :data:`PLAUSIBLE` nats of validation log-likelihood
    has weight 0 before this. Of the rest, the mixture with the best validation top-1 overfits: on a hundred clips that
    accuracy is a plateau with noise on it. Even weights of calibrated streams are hard to beat, so validation has to
    speak against them:

    1. Stay with the mixtures whose top-1 is within two standard errors of the best one's (McNemar: only the clips count
       that one of the two gets right and the other wrong).
    2. Of these stay with the mixtures within :data:`PLAUSIBLE` nats of the largest log-likelihood, which sees how sure
       a mixture was, not only whether it was right.
    3. If even weights are among them, and no part of the streams in even weights has a larger log-likelihood, take even
       weights. Else take the mixture of fewest streams, so that one that adds nothing to the others has weight 0, and
       of several the one with the largest log-likelihood.

    Args:
        weights: [M, K] mixtures, even weights among them.
        right: [M, N] bool, whether the mixture's first class is the true one, for each of N >= 1 validation clips.
        log_likelihood: [M] of the N true classes, in nats.

    Returns:
        The row of the chosen mixture.
    """
    accuracy = right.mean(axis=1)
    best = np.lexsort((-log_likelihood, -accuracy))[0]
    gained, lost = (right & ~right[best]).sum(axis=1), (~right & right[best]).sum(axis=1)
    close = lost - gained <= 2 * np.sqrt(lost + gained)
    plausible = close & (log_likelihood >= log_likelihood[close].max() - PLAUSIBLE)
    distance = ((weights - 1 / weights.shape[1]) ** 2).sum(axis=1)
    even = int(distance.argmin())
    used = (weights > 0).sum(axis=1)
    parts = (used < used[even]) & (np.where(weights > 0, weights, np.inf).min(axis=1) > weights.max(axis=1) - 1e-9)
    # On thirty clips a stream that is little better than chance is plausible at half the weight, and costs points.
    if plausible[even] and not (log_likelihood[parts] > log_likelihood[even]).any():
        return even
    rows = np.flatnonzero(plausible)
    # rounded, so that mixtures that are equal but for the order of additions are told apart by the next key
    return int(rows[np.lexsort((distance[rows], -log_likelihood[rows].round(9), used[rows]))[0]])


def weight_curve(fusion: Fusion, streams: dict[str, Scores], *, step: float) -> pd.DataFrame:
    """How validation top-1 and log-loss depend on the weights, for a plot.

    Columns :data:`CURVE_COLUMNS`: `stream`, its `weight` from 0 to 1, `top1` (fraction), `nll` (mean over clips, nats),
    `chosen` (bool: the mixture that a `weighted` fusion took; no row is chosen for other methods). For two streams the
    weight is the second one's, the first has the rest. For more there is one curve for each stream: at each of its
    weights, the mixture of the others with the lowest log-loss (a profile likelihood). Calibrated as `weighted` is,
    whatever the method of `fusion`; fewer than 2 validation clips give no rows.

    Raises:
        UserError: as :func:`fit_fusion`.
    """
    names, _, label, parts = _validation(_chosen(streams, fusion.streams))
    if len(label) < 2:
        return pd.DataFrame(columns=CURVE_COLUMNS)
    temperature = _plain([1 / _fit_scale(part, label)[0] for part in parts])
    grid, taken = _simplex(len(names), step), np.full(len(names), np.nan)
    if fusion.method == "weighted":
        taken = fusion.weights
        grid = np.vstack([taken, grid[np.abs(grid - taken).max(axis=1) > 1e-6]])
    tried = _try_mixtures(_calibrated(parts, temperature), label, grid)
    rows = []
    for k in [1] if len(names) == 2 else range(len(names)):
        rounded = grid[:, k].round(6)
        for weight in np.unique(rounded):
            at = np.flatnonzero(rounded == weight)
            chosen = at[(grid[at] == taken).all(axis=1)]
            best = chosen[0] if chosen.size else at[tried.log_likelihood[at].argmax()]
            rows.append(
                {
                    "stream": names[k],
                    "weight": float(weight),
                    "top1": round(float(tried.right[best].mean()), 6),
                    "nll": round(float(-tried.log_likelihood[best] / len(label)), 6),
                    "chosen": bool(chosen.size),
                }
            )
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


@dataclass(frozen=True, eq=False)
class _Tried:
    weights: np.ndarray  # [M, K]
    right: np.ndarray  # [M, N] bool
    log_likelihood: np.ndarray  # [M]
    sharpness: np.ndarray  # [M]


def _chosen(streams: dict[str, Scores], names: tuple[str, ...]) -> dict[str, Scores]:
    for name in names:
        if name not in streams:
            raise UserError(f"stream {name!r} is fused but has no scores; there are {', '.join(streams) or 'none'}")
    return {name: streams[name] for name in names}


def _validation(streams: dict[str, Scores]) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, list[np.ndarray]]:
    """Names, classes, labels [N] and logits K x [N, C] of validation, sorted by clip id: file order is no input."""
    aligned = align(streams)
    val = {name: scores.of("val") for name, scores in aligned.items()}
    first = next(iter(val.values()))
    order = np.argsort(first.clip_id)
    parts = [scores.logits[order].astype(np.float64) for scores in val.values()]
    return tuple(val), tuple(first.classes.tolist()), first.label[order], parts


def _average(parts: list[np.ndarray]) -> np.ndarray:
    """Log of the mean of the softmax probabilities, [N, C]; finite even where the probabilities underflow."""
    return np.logaddexp.reduce([log_softmax(part) for part in parts], axis=0) - math.log(len(parts))


def _calibrated(parts: list[np.ndarray], temperature: np.ndarray) -> np.ndarray:
    """[K, N, C] logits over temperature, zero mean over classes: their exponentials, normalised, are probabilities."""
    stacked = np.stack(parts) / np.asarray(temperature)[:, None, None]
    return stacked - stacked.mean(axis=2, keepdims=True)


def _mix(calibrated: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.tensordot(weights, calibrated, axes=1)


def _normalised(parts: list[np.ndarray]) -> np.ndarray:
    """[N, K * C] each stream's softmax scores at length 1, side by side."""
    probabilities = [np.exp(log_softmax(part)) for part in parts]
    return np.concatenate([p / np.linalg.norm(p, axis=1, keepdims=True) for p in probabilities], axis=1)


def _logistic_regression(
    calibrated: np.ndarray, start: np.ndarray, label: np.ndarray, c: float
) -> dict[str, np.ndarray]:
    """What has to be added to the logits `start` [N, C]: linear in `calibrated` [K, N, C], for the classes in `label`.

    Minimises the log-loss among those classes plus the squared length of coefficients and intercepts over 2c (convex).
    Classes without a validation clip stay out of the loss: their absence is no evidence against them.
    """
    from scipy.optimize import minimize

    known, target = np.unique(label, return_inverse=True)
    features = np.concatenate([*calibrated, np.ones((len(label), 1))], axis=1)
    rows = np.arange(len(label))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        coef = flat.reshape(len(known), -1)
        log_probability = log_softmax(start[:, known] + features @ coef.T)
        residual = np.exp(log_probability)
        residual[rows, target] -= 1
        value = -log_probability[rows, target].sum() + (flat**2).sum() / (2 * c)
        return value, (residual.T @ features + coef / c).ravel()

    found = minimize(
        loss,
        np.zeros(len(known) * features.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10000, "gtol": 1e-5, "ftol": 1e-13},
    )
    coef = _plain(found.x.reshape(len(known), -1))
    return {"known": known, "coef": coef[:, :-1], "intercept": coef[:, -1]}


def _support_vectors(parts: list[np.ndarray], label: np.ndarray, c: float, seed: int) -> dict[str, np.ndarray]:
    """One linear machine a class, against the rest.

    The paper's is the joint form of Crammer and Singer, which says nothing about a class without validation clips;
    small data sets have such classes.
    """
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=c, max_iter=100_000, random_state=seed).fit(_normalised(parts), label)
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row, for the second class
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    return {"known": model.classes_.astype(np.int64), "coef": _plain(coef), "intercept": _plain(intercept)}


def _simplex(streams: int, step: float) -> np.ndarray:
    """[M, K] every mixture of K streams in steps of 1 over a whole number, the nearest to `step`, lexicographic.

    Where that makes more than :data:`MAX_GRID` mixtures the step is the finest that does not, and a line says so.
    """
    wanted = parts = max(round(1 / step), 1)
    while math.comb(parts + streams - 1, streams - 1) > MAX_GRID and parts > 1:
        parts -= 1
    if parts < wanted:
        print(f"fusion: a step of {step:g} is too fine for {streams} streams; weights are tried in steps of 1/{parts}")
    return np.array(list(_compositions(parts, streams)), np.float64) / parts


def _compositions(total: int, parts: int) -> Iterator[list[int]]:
    """Every way to write `total` as an ordered sum of `parts` whole numbers, 0 included (stars and bars)."""
    for bars in combinations(range(total + parts - 1), parts - 1):
        edges = (-1, *bars, total + parts - 1)
        yield [after - before - 1 for before, after in zip(edges, edges[1:], strict=False)]


def _try_mixtures(calibrated: np.ndarray, label: np.ndarray, grid: np.ndarray) -> _Tried:
    """What each mixture is worth on validation, at its own best sharpness.

    The sharpness is fitted anew for each mixture because weights that sum to 1 blunt streams that confirm each other;
    without it the log-likelihood would prefer a single sharp stream to two that are right together.
    """
    right = np.empty((len(grid), len(label)), bool)
    log_likelihood, sharpness = np.empty(len(grid)), np.empty(len(grid))
    start = 1.0
    for row, weights in enumerate(tqdm(grid, desc="fusion weights", unit="mixture", delay=2, leave=False)):
        mixed = _mix(calibrated, weights)
        right[row] = mixed.argmax(axis=1) == label
        start, log_likelihood[row] = _fit_scale(mixed, label, start)
        sharpness[row] = start
    return _Tried(grid, right, log_likelihood, sharpness)


def _fit_scale(logits: np.ndarray, label: np.ndarray, start: float = 1.0) -> tuple[float, float]:
    """The factor on the logits that makes the labels likeliest, and the log-likelihood there (nats).

    A weak normal prior on the factor's logarithm (:data:`SCALE_PRIOR`) keeps it finite where every clip is right or
    every clip is wrong. Newton's method on that logarithm, kept inside a bracket that bisection shrinks.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(label)), label]
    low, high, u = -12.0, 12.0, math.log(start)
    for _ in range(100):
        scale = math.exp(u)
        likelihoods = np.exp(scale * shifted)
        total = likelihoods.sum(axis=1)
        mean = (likelihoods * shifted).sum(axis=1) / total
        variance = (likelihoods * shifted**2).sum(axis=1) / total - mean**2
        slope = scale * (true - mean).sum() - u / SCALE_PRIOR**2
        low, high = (u, high) if slope > 0 else (low, u)
        curvature = scale * (true - mean).sum() - scale**2 * variance.sum() - 1 / SCALE_PRIOR**2
        step = -slope / curvature if curvature < 0 else math.inf
        if abs(step) < 1e-8:
            break
        u = u + step if low < u + step < high else (low + high) / 2
        if high - low < 1e-8:
            break
    return scale, float((scale * true - np.log(total)).sum())


def _plain(values: np.ndarray | list[float] | float) -> np.ndarray | float:
    """Nine digits: what is written to JSON is what is applied, and the last bits of a solver do not reach the file."""
    rounded = np.vectorize(lambda value: float(f"{value:.9g}"), otypes=[np.float64])(values)
    return rounded if rounded.ndim else float(rounded)
