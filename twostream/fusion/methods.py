"""Late fusion: combine the logits of several streams, fitted on clips that the streams have not learnt from.

These are the validation clips, or all training clips where all streams have out-of-fold logits (`tune: head`). Where
only some have them, those clips still decide whether such a stream is left out. Four methods, by what they learn:

- `average`: nothing. The mean of the streams' softmax probabilities (Simonyan & Zisserman 2014, section 5).
- `weighted`: one number per stream. Calibrated log-probabilities are added with weights from a grid; see
  :func:`twostream.fusion.weights.choose_weights`. For streams with independent errors this is Bayes' rule; a mean of
  probabilities is not.
- `logreg`: multinomial logistic regression on the streams' calibrated logits, shrunk towards their even sum. Shrunk
  towards zero, as usual, it loses to the better stream alone until validation has dozens of clips per class.
- `svm`: linear SVM on the streams' L2-normalised softmax scores (Simonyan & Zisserman 2014, section 5).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason
from twostream.fusion.scores import Scores, log_softmax
from twostream.fusion.weights import (
    Validation,
    calibrate,
    choose_weights,
    fit_inverse_temperature,
    fit_temperatures,
    nine_digits,
    try_weights,
    useful_streams,
    validation_of,
    weight_grid,
)

_FITTED = {  # what each method has beyond names and temperatures
    "average": {"weights"},
    "weighted": {"weights", "inverse_temperature"},
    "logreg": {"weights", "inverse_temperature", "known", "coef", "intercept"},
    "svm": {"known", "coef", "intercept"},
}
METHODS = tuple(_FITTED)


@dataclass(frozen=True, eq=False)
class Fusion:
    """A fitted fusion: numbers that turn the logits of `streams` into fused logits.

    Attributes:
        method: one of :data:`METHODS`; also `average` where validation was too small to fit the requested method.
        streams: names of the K streams, in the order of everything below.
        classes: names of the C classes.
        temperature: [K], divides each stream's logits; ones where the method does not calibrate.
        weights: [K], not negative, sum 1; even for `average` and `logreg`, absent for `svm`.
        inverse_temperature: multiplies the weighted sum of `weighted` and `logreg`; K for independent streams of even
            weight.
        known: [P] indices of the classes with validation clips; for `logreg` and `svm`, like the next two.
        coef: [P, K * C] one row per known class, over the features of all streams in order.
        intercept: [P].
    """

    method: str
    streams: tuple[str, ...]
    classes: tuple[str, ...]
    temperature: np.ndarray
    weights: np.ndarray | None = None
    inverse_temperature: float | None = None
    known: np.ndarray | None = None
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None

    def fuse(self, logits: dict[str, np.ndarray]) -> np.ndarray:
        """Return the fused logits [N, C] float32 of each stream's [N, C]: log-probabilities, or decisions of the SVM.

        For a class without validation clips, `logreg` gives the even sum and `svm` the decision value -1.

        Raises:
            KeyError: a stream is missing.
        """
        stacked = np.stack([np.asarray(logits[name], np.float64) for name in self.streams])
        if self.method == "average":
            return _mean_probability(stacked).astype(np.float32)
        if self.method == "svm":
            fused = np.full(stacked.shape[1:], -1.0)
            fused[:, self.known] = self._decisions(_unit_softmax(stacked))
            return fused.astype(np.float32)
        calibrated = calibrate(stacked, self.temperature)
        assert self.weights is not None
        fused = self.inverse_temperature * np.tensordot(self.weights, calibrated, axes=1)
        if self.method == "logreg":
            fused[:, self.known] += self._decisions(np.concatenate(list(calibrated), axis=1))
        return log_softmax(fused).astype(np.float32)

    def _decisions(self, features: np.ndarray) -> np.ndarray:
        assert self.coef is not None
        return features @ self.coef.T + self.intercept

    def apply(self, streams: dict[str, Scores]) -> Scores:
        """Return the fused scores of the aligned scores that the fusion was fitted on."""
        fused = self.fuse({name: scores.logits for name, scores in streams.items()})
        return replace(streams[self.streams[0]], logits=fused)

    def to_json(self) -> str:
        """Return the fusion as JSON text, one field per line; the same fusion gives the same text."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in fields.items() if v is not None}
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in plain.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Fusion:
        """Return the fusion of :meth:`to_json`; it fuses to the same bits.

        Raises:
            ValueError: the text is not JSON, or its numbers do not fit together.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not a mapping")
        expected = {"method", "streams", "classes", "temperature"} | _FITTED.get(str(data.get("method")), set())
        if data.get("method") not in METHODS or set(data) != expected:
            raise ValueError(f"method {data.get('method')!r} with {', '.join(data)}; written by another version?")
        streams, classes = tuple(data["streams"]), tuple(data["classes"])
        for name in {"temperature", "weights", "coef", "intercept"} & set(data):
            data[name] = np.asarray(data[name], np.float64)
        if "known" in data:
            data["known"] = np.asarray(data["known"], np.int64)
        fusion = cls(**{**data, "streams": streams, "classes": classes})
        fusion._check()
        return fusion

    def _check(self) -> None:
        streams, classes = len(self.streams), len(self.classes)
        known = 0 if self.known is None else self.known.size
        shapes: dict[str, tuple[int, ...]] = {"temperature": (streams,), "weights": (streams,), "known": (known,)}
        shapes |= {"coef": (known, streams * classes), "intercept": (known,)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and (array.shape != shape or not np.isfinite(array).all()):
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}, all finite")
        if self.known is not None and known and (self.known.min() < 0 or self.known.max() >= classes):
            raise ValueError(f"known names a class beyond the {classes}")
        scale = self.inverse_temperature
        if scale is not None and not (isinstance(scale, float) and math.isfinite(scale)):
            raise ValueError(f"inverse_temperature is {scale!r}, not a number")


def write_fusion(path: str | Path, fusion: Fusion) -> None:
    """Write :meth:`Fusion.to_json` to a file."""
    with atomic_path(path) as temporary:
        temporary.write_text(fusion.to_json(), encoding="utf-8", newline="\n")


def read_fusion(path: str | Path) -> Fusion:
    """Read a fusion file. Raises UserError (one line) if it is missing, damaged or inconsistent."""
    try:
        return Fusion.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a usable fusion ({reason(error)}); run `dvc repro` to make it again") from None


def fit_fusion(
    method: str,
    streams: dict[str, Scores],
    *,
    step: float,
    c: float,
    seed: int,
    proven: Mapping[str, float] | None = None,
) -> Fusion:
    """Fit a fusion of all `streams` on the clips of :func:`weights.validation_of`; `test` clips are never used.

    Too little validation for the method (fewer than 2 clips, for `svm` also fewer than 2 classes) gives `average` and
    prints a line.

    Args:
        method: one of :data:`METHODS`.
        streams: name to scores, K >= 1 of them, of :func:`twostream.fusion.scores.align`.
        step: grid of the weights of `weighted`.
        c: inverse strength of the L2 penalty of `logreg` and `svm`.
        seed: of the SVM's coordinate descent.
        proven: streams to which `weighted` must give a weight, and their temperatures, of
            :func:`weights.proven_streams`. The validation clips are few compared with the clips that proved them, so
            weights stay as even as is plausible.
    """
    val = validation_of(streams)
    fits = {
        "average": lambda: _fit_average(val),
        "weighted": lambda: _fit_weighted(val, step, proven or {}),
        "logreg": lambda: _fit_logreg(val, c),
        "svm": lambda: _fit_svm(val, c, seed),
    }
    clips, classes = len(val.label), len(np.unique(val.label))
    if method != "average" and (clips < 2 or (method == "svm" and classes < 2)):
        print(f"fusion: {clips} validation clips of {classes} classes are too few for {method}; streams are averaged")
        method = "average"
    return fits[method]()


def _fit_average(val: Validation) -> Fusion:
    return Fusion("average", val.streams, val.classes, np.ones(len(val.streams)), _even_weights(val))


def _fit_weighted(val: Validation, step: float, proven: Mapping[str, float]) -> Fusion:
    temperature, _ = fit_temperatures(val)
    temperature = np.array([proven.get(name, of) for name, of in zip(val.streams, temperature, strict=True)])
    # A stream that does not beat a uniform guess has weight 0, and one that is known to beat it has another weight.
    known = [val.streams.index(name) for name in proven]
    useful = np.union1d(useful_streams(val), known).astype(int)
    if not useful.size:
        useful = np.arange(len(val.streams))
    candidates = np.vstack([np.full(len(useful), 1 / len(useful)), weight_grid(len(useful), step)])
    candidates = candidates[(candidates[:, np.isin(useful, known)] > 0).all(axis=1)]
    grid = np.zeros((len(candidates), len(val.streams)))
    grid[:, useful] = candidates
    right, log_likelihood, scales = try_weights(calibrate(val.logits, temperature), val.label, grid)
    row = choose_weights(candidates, right, log_likelihood, cautious=bool(known))
    return Fusion("weighted", val.streams, val.classes, temperature, nine_digits(grid[row]), nine_digits(scales)[row])


def _fit_logreg(val: Validation, c: float) -> Fusion:
    """Fit what logistic regression adds to the even sum of the streams, for the classes with validation clips.

    Minimises the log-loss among those classes plus the squared length of coefficients and intercepts over 2c (convex).
    Classes without a validation clip stay out of the loss: their absence is no evidence against them.
    """
    from scipy.optimize import minimize

    even, (temperature, _) = _even_weights(val), fit_temperatures(val)
    calibrated = calibrate(val.logits, temperature)
    even_sum = np.tensordot(even, calibrated, axes=1)
    inverse_temperature = float(nine_digits([fit_inverse_temperature(even_sum, val.label)[0]])[0])
    known, target = np.unique(val.label, return_inverse=True)
    start = inverse_temperature * even_sum[:, known]
    rows = np.arange(len(target))
    features = np.concatenate([*calibrated, np.ones((len(target), 1))], axis=1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        coef = flat.reshape(len(known), -1)
        log_probability = log_softmax(start + features @ coef.T)
        residual = np.exp(log_probability)
        residual[rows, target] -= 1
        value = -log_probability[rows, target].sum() + (flat**2).sum() / (2 * c)
        return value, (residual.T @ features + coef / c).ravel()

    options = {"maxiter": 5000, "maxfun": 10000, "gtol": 1e-5, "ftol": 1e-13}
    zeros = np.zeros(len(known) * features.shape[1])
    coef = nine_digits(minimize(loss, zeros, jac=True, method="L-BFGS-B", options=options).x.reshape(len(known), -1))
    return Fusion(
        *("logreg", val.streams, val.classes, temperature, even, inverse_temperature),
        known=known,
        coef=coef[:, :-1],
        intercept=coef[:, -1],
    )


def _fit_svm(val: Validation, c: float, seed: int) -> Fusion:
    """Fit one linear machine per class against the rest.

    The paper's machine is the joint form of Crammer and Singer, which is undefined for a class without validation
    clips; small data sets have such classes.
    """
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=c, max_iter=100_000, random_state=seed).fit(_unit_softmax(val.logits), val.label)
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row, for the second class
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    return Fusion(
        *("svm", val.streams, val.classes, np.ones(len(val.streams))),
        known=model.classes_.astype(np.int64),
        coef=nine_digits(coef),
        intercept=nine_digits(intercept),
    )


def _even_weights(val: Validation) -> np.ndarray:
    return nine_digits(np.full(len(val.streams), 1 / len(val.streams)))


def _mean_probability(logits: np.ndarray) -> np.ndarray:
    """Return the log [N, C] of the mean softmax over streams [K, N, C]; finite even where probabilities underflow."""
    return np.logaddexp.reduce(log_softmax(logits), axis=0) - math.log(len(logits))


def _unit_softmax(logits: np.ndarray) -> np.ndarray:
    """Return each stream's softmax scores at length 1, side by side: [N, K * C] of [K, N, C]."""
    probabilities = np.exp(log_softmax(logits))
    return np.concatenate(list(probabilities / np.linalg.norm(probabilities, axis=2, keepdims=True)), axis=1)
