"""Logistic regressions on a few numbers per record; scikit-learn takes half a second to import, which most runs do without."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_gradood.core import Component, Refusal
from lightning_gradood.detectors.tensor_scores import product

_STRENGTHS = np.logspace(-4, 4, 10)  # scikit-learn's LogisticRegressionCV by default, as are five folds
_FOLDS = 5


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


def fit_balanced_logistic(values: np.ndarray, labels: np.ndarray, strength: float) -> Logistic:
    """Fit an L2-regularised logistic regression in which both classes weigh the same, however many there are of each.

    Takes values float [n, d], labels 0 (normal) and 1 (anomalous), int [n], some of either, and scikit-learn's C.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale, standardised = _standardised(values)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    with warnings.catch_warnings():  # status 2: no step is better, as float32 has no digits left
        warnings.filterwarnings("ignore", r"lbfgs failed to converge after \d+ iteration\(s\) \(status=2\)")
        model.fit(standardised.astype(np.float32), labels)  # in half the time of float64
    return Logistic(mean, scale, model.coef_[0].astype(np.float64), float(model.intercept_[0]))


def fit_logistic(values: np.ndarray, labels: np.ndarray) -> Logistic:
    """Fit logistic regression as scikit-learn's LogisticRegressionCV does: L2, five folds, accuracy, ten strengths.

    These are the regressions of deep_Mahalanobis (Lee et al. 2018), `ADV_Regression.py`. Takes values float [n, d] and
    labels 0 (normal) and 1 (anomalous), int [n], five or more of either.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    counts = np.bincount(labels, minlength=2)
    if counts.min() < _FOLDS:
        raise Refusal(
            f"`train` should hold at least {_FOLDS} normal and {_FOLDS} anomalous records for a logistic regression. "
            f"Got {counts[0]} normal and {counts[1]} anomalous. Give more images or leave the detector out."
        )
    mean, scale, standardised = _standardised(values)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": _STRENGTHS}, cv=StratifiedKFold(_FOLDS))
    best = search.fit(standardised, labels).best_estimator_
    return Logistic(mean, scale, best.coef_[0], float(best.intercept_[0]))


def _standardised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, spread = values.mean(axis=0), values.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    return mean, scale, (values - mean) / scale
