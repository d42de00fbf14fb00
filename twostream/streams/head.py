"""A linear classifier on the features of a frozen network, and its logits for training clips that it has not seen.

The classifier is a multinomial logistic regression with an L2 penalty. Its features, of length 1 (see
:mod:`twostream.streams.frozen`), are centred and divided by one number, their common scale. Out of fold on 150 real
clips that is a point better than a scale per feature, for I3D on frames and on flow and for their sum: features that
hardly vary stay unimportant. The penalty is chosen by cross-validation over the groups of the training clips: no group
is on both sides of a fold.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

STRENGTHS = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-4, 1.1, 0.5))  # scikit-learn's C
FOLDS = 5
_ABSENT = 10.0  # a class without training clips has logits this much below the lowest bias


class Head(NamedTuple):
    """A fitted classifier: logits are features @ weight.T + bias.

    Attributes:
        weight: float32 [C, F].
        bias: float32 [C].
        strength: the chosen inverse penalty.
        out_of_fold: float32 [N, C], the logits of each training clip by a classifier without its group.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    out_of_fold: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the logits, float32 [N, C], of features [N, F]."""
        return apply_head(self.weight, self.bias, features)


def apply_head(weight: np.ndarray, bias: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the logits, float32 [N, C], of features [N, F], weight [C, F] and bias [C]."""
    return (features.astype(np.float64) @ weight.T.astype(np.float64) + bias).astype(np.float32)


def fit_head(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, *, balanced: bool, seed: int
) -> Head:
    """Fit a classifier on all training clips, at the strength of the lowest out-of-fold log-loss.

    Args:
        features: float32 [N, F].
        labels: int [N], each below `classes`.
        groups: [N]; clips of one group are in one fold. With a single group, or a single clip in every class,
            nothing can be held out: the middle strength is used, and the out-of-fold logits are zeros.
        classes: C.
        balanced: weight clips by the inverse frequency of their class.
        seed: draws the folds.
    """
    out_of_fold = np.zeros((len(STRENGTHS), len(labels), classes), np.float32)
    best = len(STRENGTHS) // 2
    with _one_thread():
        if folds := _folds(labels, groups, seed):
            for train, rest in folds:
                fits = _fit(features[train], labels[train], classes, STRENGTHS, balanced)
                out_of_fold[:, rest] = [apply_head(*fit, features[rest]) for fit in fits]
            best = int(np.argmin([log_loss(logits, labels) for logits in out_of_fold]))
        else:
            print("head: too few training clips or groups to hold some out, so its strength is not chosen")
        ((weight, bias),) = _fit(features, labels, classes, STRENGTHS[best : best + 1], balanced)
    return Head(weight, bias, STRENGTHS[best], out_of_fold[best])


def _one_thread() -> AbstractContextManager:
    """Return a context in which BLAS has one thread: on matrices this small, several spend their time in waiting."""
    import sklearn.linear_model  # noqa: F401  threads are limited of libraries that are loaded
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats of logits [N, C]."""
    from scipy.special import log_softmax

    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def _folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to train on and the rows held out, by fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    count = min(FOLDS, len(np.unique(groups)), max(np.unique(labels, return_counts=True)[1]))
    if count < 2:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer clips than folds
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        return [(train, rest) for train, rest in splitter.split(labels, labels, groups) if len(train) and len(rest)]


def _fit(
    features: np.ndarray, labels: np.ndarray, classes: int, strengths: Sequence[float], balanced: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weight [C, F] and bias [C], float32, of the logistic regression of each strength."""
    from sklearn.linear_model import LogisticRegression

    values = features.astype(np.float64)
    mean = values.mean(0)
    scale = float(np.sqrt(np.square(values - mean).mean())) or 1.0
    # The penalty does not see a rotation, and N clips span N dimensions at most: with 150 clips and 1024 features this
    # takes a twentieth of the time.
    left, lengths, axes = np.linalg.svd((values - mean) / scale, full_matrices=False)
    rotated = left * lengths
    known = np.unique(labels)
    absent = np.setdiff1d(np.arange(classes), known)
    model = LogisticRegression(max_iter=1000, warm_start=True, class_weight="balanced" if balanced else None)
    fits = []
    for strength in strengths:
        weight, bias = np.zeros((classes, values.shape[1])), np.zeros(classes)
        if len(known) > 1:
            model.set_params(C=strength).fit(rotated, labels)
            coef, intercept = model.coef_, model.intercept_
            if len(known) == 2:  # scikit-learn keeps one row, for the second class
                coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
            weight[known] = coef @ axes / scale
            bias[known] = intercept - weight[known] @ mean
        bias[absent] = (weight[known] @ mean + bias[known]).min() - _ABSENT  # below the logits of the mean clip
        fits.append((weight.astype(np.float32), bias.astype(np.float32)))
    return fits
