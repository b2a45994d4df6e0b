"""What the backward pass leaves behind: one squared norm per image and parameter tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Tally:
    """Collects the contributions of all uses of each parameter during one backward pass.

    A parameter that is used once gives its norms at once, by whichever closed form is cheapest. One that is used
    several times needs its per-sample gradients added up first: a norm of a sum is not the sum of norms.

    Args:
        parameters: the L tensors, in the order of the columns.
        batch: number of images N.
        passes: number of backward passes that will follow one forward pass (label designs).
    """

    def __init__(self, parameters: Sequence[Tensor], batch: int, passes: int = 1) -> None:
        self.batch, self.passes = batch, passes
        self._parameters = parameters  # keeps the ids below valid
        self._column = {id(parameter): column for column, parameter in enumerate(parameters)}
        self._uses = [0] * len(parameters)
        self.start()

    def start(self) -> None:
        """Begin a backward pass: forget the contributions of the one before."""
        self._norms: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}

    def knows(self, tensor: object) -> bool:
        """Whether `tensor` is one of the parameters."""
        return id(tensor) in self._column

    def column(self, parameter: Tensor) -> int:
        """The parameter's place in the result."""
        return self._column[id(parameter)]

    def use(self, parameter: Tensor) -> None:
        """Count one use in the forward pass."""
        self._uses[self.column(parameter)] += 1

    def shared_elements(self) -> int:
        """Number of gradient entries per image that have to be kept because a parameter is used several times."""
        return sum(p.numel() for p, uses in zip(self._parameters, self._uses, strict=True) if uses > 1)

    def record(
        self, parameter: Tensor | None, gradients: Callable[[], Tensor], norms: Callable[[], Tensor] | None = None
    ) -> None:
        """Add one use's contribution, whichever of the two forms is needed; nothing for a tensor that is no parameter.

        Args:
            parameter: the tensor that was used, or None.
            gradients: computes its per-sample gradients [N, *shape].
            norms: computes their squared norms [N], where there is a cheaper way than through the gradients.
        """
        if parameter is None or not self.knows(parameter):
            return
        column = self.column(parameter)
        if self._uses[column] > 1:
            gradient = gradients()
            self._sums[column] = self._sums[column] + gradient if column in self._sums else gradient
        else:
            self._norms[column] = squared_rows(gradients()) if norms is None else norms().double()

    def result(self) -> Tensor:
        """The pass's squared norms, float64 [N, L]; a parameter without any contribution has 0."""
        rows = torch.zeros(len(self._uses), self.batch, dtype=torch.float64, device=self._parameters[0].device)
        for column, norms in self._norms.items():
            rows[column] = norms
        for column, gradient in self._sums.items():
            rows[column] = squared_rows(gradient)
        return rows.T


def squared_rows(gradients: Tensor) -> Tensor:
    """Squared L2 norm of every row, [N, ...] -> float64 [N]; the root keeps float32 away from its smallest numbers."""
    norms: Tensor = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    return norms.double().square()
