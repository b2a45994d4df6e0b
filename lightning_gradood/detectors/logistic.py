"""Logistic regressions on a few numbers per record; scikit-learn takes half a second to import, which most runs do without."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gradood.core import Component, Refusal
from lightning_gradood.detectors.tensor_scores import product

_STRENGTHS = np.logspace(-4, 4, 10)  # scikit-learn's LogisticRegressionCV by default, as are five folds
_FOLDS = 5
_FEW = (
    2000  # rows, and no more than columns: below it products of rows take less time than many steps through all values
)
_STEPS, _ENOUGH, _FLAT = 100, 1e-6, 1e-9  # Newton's: the most; the least gain, as a share; least curvature and size


@dataclass(frozen=True, eq=False)
class Logistic(Component):
    """A fitted logistic regression on standardised values.

    Args:
        mean, scale: of each column on `train`, float64 [d]; the scale is the standard deviation, 1 where that is 0.
        coefficients: of the standardised columns, float64 [d].
        bias: the logit of a mean row.
    """

    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    bias: float

    def score(self, values: Tensor) -> Tensor:
        """Logits of being anomalous, float64 [n], for values float64 [n, d]."""
        standardised = (values - torch.from_numpy(self.mean)) / torch.from_numpy(self.scale)
        return product(standardised, self.coefficients) + self.bias


def fit_balanced_logistic(
    columns: Iterable[tuple[int, np.ndarray]], width: int, labels: np.ndarray, strength: float
) -> Logistic:
    """Fit an L2-regularised logistic regression in which both classes weigh the same, however many there are of each.

    Takes blocks of columns, float [n, k], each with the place of its first among the `width`, labels 0 (normal) and 1
    (anomalous), int64 [n], some of either, and scikit-learn's C.
    """
    mean, scale, values = np.empty(width), np.empty(width), np.empty((len(labels), width), dtype=np.float32)
    for first, block in columns:
        here = slice(first, first + block.shape[1])
        mean[here], scale[here], values[:, here] = _standardised(block)  # as float32, which takes half the time
    solve = _by_rows if len(values) < min(width, _FEW) else _by_columns
    coefficients, bias = solve(values, labels, strength)
    return Logistic(mean, scale, coefficients.astype(np.float64), bias)


def _by_columns(values: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    with warnings.catch_warnings():  # status 2: no step is better, as float32 has no digits left
        warnings.filterwarnings("ignore", r"lbfgs failed to converge after \d+ iteration\(s\) \(status=2\)")
        model.fit(values, labels)
    return model.coef_[0], float(model.intercept_[0])


def _by_rows(values: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Newton's method for weights a of the rows, coefficients = valuesᵀ·a (Rasmussen and Williams 2006, algorithm 3.1)."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.special import expit

    products, number = (values @ values.T).astype(np.float64), len(values)
    weight = strength * number / (2 * np.bincount(labels)[labels])
    state, loss = np.zeros(2 * number + 1), np.inf  # a, logits and bias
    matrix = np.empty_like(products)

    def loss_of(state: np.ndarray) -> float:
        own, logits = state[:number], state[number:-1]
        losses = weight @ np.logaddexp(0, np.where(labels == 1, -logits, logits))
        return float(losses + own @ (logits - state[-1]) / 2)

    for _ in range(_STEPS):
        logits = state[number:-1]
        share = expit(logits)
        curvature = weight * share * (1 - share) + _FLAT
        root = np.sqrt(curvature)[:, None]
        np.multiply(products, root, out=matrix)
        np.multiply(matrix, root.T, out=matrix).flat[:: number + 1] += 1
        factor = cho_factor(matrix.T, overwrite_a=True, check_finite=False)  # its transpose is as LAPACK has it
        right = np.column_stack([weight * (labels - share) + curvature * logits, curvature])
        left = right - root * cho_solve(factor, root * (products @ right), check_finite=False)
        bias = left[:, 0].sum() / left[:, 1].sum()
        own = left[:, 0] - bias * left[:, 1]
        step, size = np.r_[own, products @ own + bias, bias] - state, 1.0
        while (found := loss_of(state + size * step)) > loss and size > _FLAT:
            size /= 2
        while (
            size >= 1 and (farther := loss_of(state + 2 * size * step)) < found
        ):  # early steps fall short of the optimum
            size, found = 2 * size, farther
        state, loss, before = state + size * step, found, loss
        if not before - loss > _ENOUGH * loss:
            break
    return values.T @ state[:number].astype(np.float32), float(state[-1])


def fit_logistic(values: np.ndarray, labels: np.ndarray) -> Logistic:
    """Fit logistic regression as scikit-learn's LogisticRegressionCV does: L2, five folds, accuracy, ten strengths.

    These are the regressions of deep_Mahalanobis (Lee et al. 2018), `ADV_Regression.py`. Takes values float [n, d] and
    labels 0 (normal) and 1 (anomalous), int [n], five or more of either.
    """
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels, minlength=2)
    if counts.min() < _FOLDS:
        raise Refusal(
            f"`train` should hold at least {_FOLDS} normal and {_FOLDS} anomalous records for a logistic regression. "
            f"Got {counts[0]} normal and {counts[1]} anomalous. Give more images or leave the detector out."
        )
    mean, scale, standardised = _standardised(values)
    folds = [*StratifiedKFold(_FOLDS).split(standardised, labels)]

    def fitted(strength: float, rows: Any = slice(None)) -> Any:
        return LogisticRegression(C=strength, max_iter=1000).fit(standardised[rows], labels[rows])

    def accuracy(strength: float) -> float:
        pairs = ((fitted(strength, seen).predict(standardised[held]), labels[held]) for seen, held in folds)
        return float(np.mean([np.mean(found == expected) for found, expected in pairs]))

    with config_context(skip_parameter_validation=True):  # which takes as long as a fit, as does GridSearchCV's work
        best = fitted(max(_STRENGTHS, key=accuracy))
    return Logistic(mean, scale, best.coef_[0], float(best.intercept_[0]))


def _standardised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, spread = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)
    return mean, scale, (values - mean.astype(values.dtype)) / scale.astype(values.dtype)
