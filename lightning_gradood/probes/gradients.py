"""The paper's probe: squared norms of the gradients that a confounding label asks for."""

import json
from typing import Any

from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import LabelDesign, parameter_names, squared_gradient_norms
from lightning_gradood.probes.probe import Probe


class GradientProbe(Probe):
    """Squared L2 norm of the loss gradient of every parameter tensor, per image, float64 [N, L].

    Args:
        label_design: which confounding label, and with it which loss.

    Reference:
        Lee, Prabhushankar, AlRegib 2022, Eq. 1 and 2.
    """

    def __init__(self, label_design: LabelDesign) -> None:
        self.label_design = label_design

    @property
    @override
    def name(self) -> str:
        return f"gradients/{self.label_design.name}"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return parameter_names(network)

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        return squared_gradient_norms(network, images, self.label_design)

    @override
    def describe(self) -> dict[str, object]:
        kind = type(self.label_design)  # designs of different users may share a name
        design = {"class": f"{kind.__module__}.{kind.__qualname__}", "settings": self._settings()}
        return super().describe() | {"label_design": design}

    def _settings(self) -> object:
        return json.loads(json.dumps(vars(self.label_design), default=self._tensor_as_list))

    def _tensor_as_list(self, value: Any) -> object:
        if isinstance(value, Tensor):
            return value.tolist()
        raise Refusal(
            "`label_design` should hold plain numbers, text, lists or tensors, so that its records can be found again. "
            f"Got `label_design = {self.label_design.name}` with a {type(value).__name__}. Keep what it is made from."
        )
