"""The trees of an isolation forest as plain arrays, which can be saved and score like scikit-learn's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it takes half a second to import
    from sklearn.ensemble import IsolationForest


@dataclass(frozen=True)
class Trees:
    """The trees of an isolation forest, node by node, one tree behind the other.

    Args:
        feature: column that a node compares; negative in a leaf, int64 [nodes].
        threshold: rows at most this large go left, float64 [nodes].
        left, right: children, counted within their tree, int64 [nodes].
        samples: training rows that reached the node, int64 [nodes].
        count: nodes of each tree, int64 [trees].
        tree_size: training rows that each tree was grown on, int64, one number.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    samples: np.ndarray
    count: np.ndarray
    tree_size: np.ndarray

    @classmethod
    def of(cls, forest: IsolationForest) -> Trees:
        """Copy the trees of a fitted forest."""
        trees = [estimator.tree_ for estimator in forest.estimators_]

        def nodes(name: str) -> np.ndarray:
            return np.concatenate([getattr(tree, name) for tree in trees])

        return cls(
            feature=nodes("feature"),
            threshold=nodes("threshold"),
            left=nodes("children_left"),
            right=nodes("children_right"),
            samples=nodes("n_node_samples"),
            count=np.array([tree.node_count for tree in trees]),
            tree_size=np.array(forest.max_samples_),
        )

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Anomaly scores 2^(−mean depth / expected depth) in (0, 1], float64 [n], of rows [n, D].

        Equal to scikit-learn's `-IsolationForest.score_samples`, rounding and order of summation included.

        Reference:
            Liu, Ting and Zhou 2008, Eq. 1 and 2.
        """
        rows = values.astype(np.float32)  # scikit-learn's trees compare float32
        depths = np.zeros(len(rows))
        for start, count in zip(np.cumsum(self.count) - self.count, self.count, strict=True):
            depths += self._depths(rows, slice(start, start + count))
        expected = len(self.count) * _expected_depth(self.tree_size.reshape(1))[0]
        return np.asarray(2 ** -(depths / expected if expected else np.ones_like(depths)))

    def _depths(self, rows: np.ndarray, tree: slice) -> np.ndarray:
        feature, threshold = self.feature[tree], self.threshold[tree]
        left, right, expected = self.left[tree], self.right[tree], _expected_depth(self.samples[tree])
        node, depth = np.zeros(len(rows), dtype=np.int64), np.ones(len(rows))
        inner = np.flatnonzero(feature[node] >= 0)
        while len(inner):
            at = node[inner]
            node[inner] = np.where(rows[inner, feature[at]] <= threshold[at], left[at], right[at])
            depth[inner] += 1
            inner = inner[feature[node[inner]] >= 0]
        return np.asarray(depth + expected[node] - 1.0)


def _expected_depth(samples: np.ndarray) -> np.ndarray:
    """Mean depth of an unsuccessful search among so many rows, c(n) of Liu, Ting and Zhou, Eq. 1; float64 like `samples`."""
    found = np.zeros(len(samples))
    found[samples == 2] = 1.0
    many = samples > 2
    n = samples[many]
    found[many] = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return found
