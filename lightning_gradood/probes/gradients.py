"""The paper's probe: squared norms of the gradients that a confounding label asks for."""

from torch import Tensor, nn

from lightning_gradood.gradients import LabelDesign, parameter_names, squared_gradient_norms
from lightning_gradood.probes.probe import Probe


class GradientProbe(Probe):
    """Squared L2 norm of the loss gradient of every parameter tensor, per image.

    Args:
        label_design: which confounding label, and with it which loss.

    Reference:
        Lee, Prabhushankar, AlRegib 2022, Eq. 1 and 2.
    """

    def __init__(self, label_design: LabelDesign) -> None:
        self.label_design = label_design

    @property
    def name(self) -> str:
        """`gradients/<label design>`."""
        return f"gradients/{self.label_design.name}"

    def names(self, network: nn.Module) -> list[str]:
        """Parameter names, in `named_parameters()` order."""
        return parameter_names(network)

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Squared norms, float64 [N, L]."""
        return squared_gradient_norms(network, images, self.label_design)
