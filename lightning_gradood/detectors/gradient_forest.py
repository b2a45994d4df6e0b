"""An isolation forest of normal gradient representations."""

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from torch import Tensor

from lightning_gradood.detectors.label_free import LabelFreeDetector
from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import LabelDesign


class GradientForest(LabelFreeDetector):
    """Score by how few random cuts isolate an image among normal ones.

    Args:
        label_designs: the representation is their norms side by side; [AllOnes] if none are named.
        trees: of the forest.

    Reference:
        Liu, Ting and Zhou 2008; 256 images a tree, as they have it.
    """

    def __init__(self, label_designs: list[LabelDesign] | None = None, trees: int = 200) -> None:
        super().__init__(label_designs, whitening=0.0)
        if trees < 1:
            raise Refusal(f"`trees` should be at least 1. Got `trees = {trees}`. 200 is the default.")
        self.trees = trees
        self._forest: IsolationForest | None = None

    @property
    def name(self) -> str:
        """`gradient_forest`."""
        return "gradient_forest"

    def _fit(self, normal: np.ndarray, seed: int) -> None:
        self._forest = IsolationForest(n_estimators=self.trees, max_samples="auto", random_state=seed).fit(normal)

    def _score(self, values: np.ndarray) -> np.ndarray:
        return -np.asarray(self._grown().score_samples(values))

    def _state(self) -> dict[str, Tensor]:
        """The nodes of all trees one after the other, and how many each tree has."""
        trees = [estimator.tree_ for estimator in self._grown().estimators_]
        names = ("feature", "threshold", "children_left", "children_right", "n_node_samples")
        nodes = {name: np.concatenate([getattr(tree, name) for tree in trees]) for name in names}
        nodes["node_count"] = np.array([tree.node_count for tree in trees])
        return {name: torch.from_numpy(values) for name, values in nodes.items()}

    def _grown(self) -> IsolationForest:
        if self._forest is None:
            raise RuntimeError("GradientForest.fit comes before score and state.")
        return self._forest
