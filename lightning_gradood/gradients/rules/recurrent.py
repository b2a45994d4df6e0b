"""LSTM: each layer and direction is one closed form over all its time steps.

A step's gates are z_t = W x_t + V h_{t−1} + biases. With δ_t the gradient at z_t, which goes back through time,
dW = Σ_t δ_t x_tᵀ, dV = Σ_t δ_t h_{t−1}ᵀ and both biases receive Σ_t δ_t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function
from typing_extensions import override

from lightning_gradood.gradients.accumulator import Accumulator
from lightning_gradood.gradients.layer import Call, Layer, Match, Rewrite
from lightning_gradood.gradients.rules.linear import weight_gradients, weight_norms


class LSTMSteps(Layer):
    """One direction of one layer, [N·m, T, C] -> hidden and cell states side by side, [N·m, T, 2H]."""

    def __init__(self, weights: Sequence[Tensor], hidden: Tensor, cell: Tensor, steps: int) -> None:
        self.weight, self.recurrent, *self.biases = weights
        self.hidden, self.cell = hidden, cell  # before the first step, [N·m, H]
        self.parameters, self.steps = tuple(weights), steps

    @override
    def output(self, x: Tensor) -> Tensor:
        """Compute the layer's output; see `Layer.output`."""
        hidden, cell, states = self.hidden, self.cell, []
        self.gates: list[tuple[Tensor, ...]] = []
        bias = self.biases[0] + self.biases[1] if self.biases else None
        for step in F.linear(x, self.weight, bias).unbind(1):
            i, f, g, o = (step + hidden @ self.recurrent.T).chunk(4, 1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            cell = f * cell + i * g
            hidden = o * cell.tanh()
            states.append(torch.cat([hidden, cell], 1))
            self.gates.append((i, f, g, o))
        self.states = torch.stack(states, 1)
        return self.states.clone()

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, accumulator: Accumulator) -> Tensor | None:
        """Return the input's gradient and record the parameters' norms; see `Layer.backward`."""
        before = torch.cat([torch.cat([self.hidden, self.cell], 1)[:, None], self.states[:, :-1]], 1)
        deltas = self._deltas(gradient, before)
        a, h, b = (
            tensor.reshape(accumulator.batch, -1, tensor.shape[-1])
            for tensor in (x, before[..., : self.hidden.shape[1]], deltas)
        )
        accumulator.record(self.weight, lambda: weight_gradients(a, b), lambda: weight_norms(a, b))
        accumulator.record(self.recurrent, lambda: weight_gradients(h, b), lambda: weight_norms(h, b))
        for bias in self.biases:
            accumulator.record(bias, lambda: b.sum(1))
        return deltas @ self.weight if needs_input else None

    def _deltas(self, gradient: Tensor, before: Tensor) -> Tensor:
        """The gradient at the gates before they are squashed, [N·m, T, 4H]."""
        of_hidden, of_cell = torch.zeros_like(self.hidden), torch.zeros_like(self.cell)
        H, deltas = self.hidden.shape[1], []
        for t in reversed(range(len(self.gates))):
            i, f, g, o = self.gates[t]
            squashed = self.states[:, t, H:].tanh()
            of_hidden = of_hidden + gradient[:, t, :H]
            of_cell = of_cell + gradient[:, t, H:] + of_hidden * o * (1 - squashed.square())
            of_gates = (
                of_cell * g * i * (1 - i),
                of_cell * before[:, t, H:] * f * (1 - f),
                of_cell * i * (1 - g.square()),
                of_hidden * squashed * o * (1 - o),
            )
            deltas.append(torch.cat(of_gates, 1))
            of_hidden, of_cell = deltas[-1] @ self.recurrent, of_cell * f
        return torch.stack(deltas[::-1], 1)


def steps(x: Tensor, hidden: Tensor, cell: Tensor, *weights: Tensor) -> Tensor:
    """Stand in for one direction of one layer, which torch has no function for, until the interception sees it."""
    states: Tensor = handle_torch_function(steps, (x, *weights), x, hidden, cell, *weights)
    return states


def _match_steps(call: Call) -> tuple[Layer, Tensor] | None:
    x, hidden, cell, *weights = call.args
    return (LSTMSteps(weights, hidden, cell, x.shape[1]), x) if call.has_rows(x) else None


def _rewrite(call: Call) -> Callable[[], tuple[Tensor, Tensor, Tensor]] | None:
    names = (
        "input", "hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional", "batch_first",
    )  # fmt: skip
    bound = call.bind(names, (None,) * len(names))
    if bound is None or not isinstance(bound[2], list | tuple):  # a packed sequence has other arguments
        return None
    x, start, weights, biased, layers, dropout, training, both, batch_first = bound
    directions, each = (2 if both else 1), (4 if biased else 2)  # with a projection there are more
    if x.ndim != 3 or (dropout and training) or len(weights) != layers * directions * each:
        return None
    if not (x.requires_grad or call.from_images(x)) or x.shape[0 if batch_first else 1] % call.accumulator.batch:
        return None
    if call.accumulator.knows(x) or not call.is_constant(*weights, *start) or any(map(call.accumulator.knows, start)):
        return None
    each_weights = [weights[place : place + each] for place in range(0, len(weights), each)]
    return lambda: _spelt_out(x, start, each_weights, directions, batch_first)


def _spelt_out(
    x: Tensor, start: Sequence[Tensor], weights: Sequence[Sequence[Tensor]], directions: int, batch_first: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer after layer; the second direction reads the sequence backwards."""
    y, ends = x if batch_first else x.transpose(0, 1), []
    for layer in range(len(weights) // directions):
        found = []
        for direction in range(directions):
            number = layer * directions + direction
            states = steps(y.flip(1) if direction else y, start[0][number], start[1][number], *weights[number])
            ends.append(states[:, -1].chunk(2, 1))
            hidden = states.chunk(2, 2)[0]
            found.append(hidden.flip(1) if direction else hidden)
        y = torch.cat(found, 2)
    h, c = (torch.stack(last) for last in zip(*ends, strict=True))
    return (y if batch_first else y.transpose(0, 1)), h, c


MATCHES: dict[Callable[..., Any], Match] = {steps: _match_steps}
REWRITES: dict[Callable[..., Any], Rewrite] = {torch.lstm: _rewrite}
