"""A linear classifier on the features of a frozen network, and its logits for training clips that it has not seen.

The classifier is a linear discriminant analysis: it models the features of each class as a normal distribution, with
one covariance for all classes, which is shrunk towards a multiple of the identity (Friedman 1989, Regularized
Discriminant Analysis). Directions in which clips of one class differ thus count less, and they are learnt from the
clips of all classes: with six clips per class this is far better than a logistic regression, with 75 as good
(docs/accuracy.md). The shrinkage, and a scale that calibrates the logits, are chosen by cross-validation over the
groups of the training clips: no group is on both sides of a fold.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

SHRINKAGES = tuple(float(f"{odds / (1 + odds):.3g}") for odds in 10.0 ** np.arange(-3, 1.6, 0.5))  # 0.001 to 0.969
# Factors on the logits: those of few clips in many dimensions are too large.
SCALES = tuple(float(scale) for scale in 2.0 ** np.arange(-8, 2.1, 0.5))
FOLDS = 5
_ABSENT = 10.0  # a class without training clips has logits this much below the lowest bias


class Head(NamedTuple):
    """A fitted classifier: logits are features @ weight.T + bias.

    Attributes:
        weight: float32 [C, F].
        bias: float32 [C].
        shrinkage: the chosen share of the identity in the covariance, 0 to 1.
        out_of_fold: float32 [N, C], the logits of each training clip by a classifier without its group.
    """

    weight: np.ndarray
    bias: np.ndarray
    shrinkage: float
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
    """Fit a classifier on all training clips, at the shrinkage and scale of the lowest out-of-fold log-loss.

    Args:
        features: float32 [N, F].
        labels: int [N], each below `classes`.
        groups: [N]; clips of one group are in one fold. With a single group, or a single clip in every class,
            nothing can be held out: the middle shrinkage and scale are used, and the out-of-fold logits are zeros.
        classes: C.
        balanced: take all classes for equally frequent.
        seed: draws the folds.
    """
    out_of_fold = np.zeros((len(SHRINKAGES), len(labels), classes), np.float32)
    best, scale = len(SHRINKAGES) // 2, SCALES[len(SCALES) // 2]
    with _one_thread():
        if folds := _folds(labels, groups, seed):
            for train, rest in folds:
                fits = _fit(features[train], labels[train], classes, SHRINKAGES, balanced)
                out_of_fold[:, rest] = [apply_head(*fit, features[rest]) for fit in fits]
            losses = [[log_loss(scale * logits, labels) for scale in SCALES] for logits in out_of_fold]
            best, column = divmod(int(np.argmin(losses)), len(SCALES))
            scale = SCALES[column]
        else:
            print("head: too few training clips or groups to hold some out, so its shrinkage is not chosen")
        ((weight, bias),) = _fit(features, labels, classes, SHRINKAGES[best : best + 1], balanced)
    return Head(scale * weight, scale * bias, SHRINKAGES[best], scale * out_of_fold[best])


def _one_thread() -> AbstractContextManager:
    """Return a context in which BLAS has one thread: on matrices this small, several spend their time in waiting."""
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
    features: np.ndarray, labels: np.ndarray, classes: int, shrinkages: Sequence[float], balanced: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weight [C, F] and bias [C], float32, of the discriminant analysis of each shrinkage."""
    values = features.astype(np.float64)
    mean = values.mean(0)
    # N clips span N dimensions at most, and a rotation changes nothing: the covariance is N by N instead of F by F.
    axes, coordinates = np.linalg.qr((values - mean).T)
    rotated = coordinates.T
    known, index = np.unique(labels, return_inverse=True)
    absent = np.setdiff1d(np.arange(classes), known)
    means = np.stack([rotated[index == number].mean(0) for number in range(len(known))])
    log_priors = np.zeros(len(known)) if balanced else np.log(np.bincount(index) / len(index))
    within = rotated - means[index]
    variances, directions = np.linalg.eigh(within.T @ within / len(within))
    identity = np.square(rotated).mean() or 1.0  # the mean variance of a feature
    fits = []
    for shrinkage in shrinkages:
        weight, bias = np.zeros((classes, values.shape[1])), np.zeros(classes)
        precision = directions / ((1 - shrinkage) * variances + shrinkage * identity) @ directions.T
        towards = means @ precision
        weight[known] = towards @ axes.T
        bias[known] = log_priors - (towards * means).sum(1) / 2 - weight[known] @ mean
        bias[absent] = (weight[known] @ mean + bias[known]).min() - _ABSENT  # below the logits of the mean clip
        fits.append((weight.astype(np.float32), bias.astype(np.float32)))
    return fits
