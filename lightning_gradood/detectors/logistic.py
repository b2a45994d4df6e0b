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
# rows, and no more than columns: below it products of rows take less time than many steps through all values
_FEW = 2000
_FLAT, _ROUNDING = 1e-12, 1e-5  # least square of a row; part of a row beside others that float32 products tell from 0


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


def _by_columns(
    values: np.ndarray, labels: np.ndarray, strength: float, tolerance: float = 1e-4
) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, tol=tolerance)
    with warnings.catch_warnings():  # status 2: no step is better, as float32 has no digits left
        warnings.filterwarnings("ignore", r"lbfgs failed to converge after \d+ iteration\(s\) \(status=2\)")
        model.fit(values, labels)
    return model.coef_[0], float(model.intercept_[0])


def _by_rows(values: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """The same on L of values·valuesᵀ = L·Lᵀ: the penalty leaves coefficients no part outside of the rows' span."""
    from scipy.linalg import lapack, solve_triangular

    products = (values @ values.T).astype(np.float64)
    products.flat[:: len(products) + 1] += _FLAT
    scale = np.sqrt(products.diagonal())
    factor, order, rank, _ = lapack.dpstrf(products / scale / scale[:, None], tol=_ROUNDING, lower=1)
    root, order = np.empty((len(products), rank)), order - 1
    root[order] = np.tril(factor[:, :rank]) * scale[order, None]
    found, bias = _by_columns(root, labels, strength, tolerance=1e-5)
    own = solve_triangular(factor[:rank, :rank], found, lower=True, trans="T") / scale[order[:rank]]
    return values[order[:rank]].T @ own.astype(np.float32), bias


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
