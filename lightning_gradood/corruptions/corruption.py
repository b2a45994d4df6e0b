"""A corruption as an attack: settings that turn batches of images into corrupted ones."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.attacks import Attack
from lightning_gradood.corruptions.corrupt import check, corrupt
from lightning_gradood.corruptions.severities import KINDS, Kind
from lightning_gradood.errors import Refusal


class Corruption(Attack):
    """Common corruptions that do not know the network: noise, blur, weather and what cameras and files do.

    Images are rounded to 8 bits, corrupted one by one on the CPU and returned in the dtype and on the device they came
    in. Grey images [N, 1, H, W] are corrupted as if they were in colour, and the mean of the three channels is returned.
    The random numbers of an image depend on `seed`, `kind`, `severity` and its id only.

    Args:
        kind: One of the 15 corruptions of ImageNet-C and CIFAR-10-C.
        severity: 1 (mild) … 5; what that means depends on the size of the image, as in the published sets.
        seed: Another seed draws other noise, snow and so on.

    Raises:
        Refusal: `kind` or `severity` does not exist.

    Reference:
        Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
        >>> corrupted = Corruption("fog", severity=3).craft(network, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
        >>> corrupted.images.shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, kind: Kind, severity: int = 3, seed: int = 0) -> None:
        check(kind, severity)
        self.kind = kind
        self.severity = severity
        self.seed = seed

    @property
    @override
    def passes(self) -> int:
        return 0  # no network is asked

    @override
    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise Refusal(
                "`images` should be [N, 3, H, W] or grey [N, 1, H, W]. "
                f"Got `images.shape = {list(images.shape)}`. Leave corruptions out for images of other kinds."
            )
        colour = (images.cpu() * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        pairs = zip(colour, ids, strict=True)
        corrupted = [corrupt(pixels, self.kind, self.severity, self._generator(name)) for pixels, name in pairs]
        result = torch.from_numpy(np.stack(corrupted)).permute(0, 3, 1, 2).to(images.dtype) / 255
        if images.shape[1] == 1:
            result = result.mean(1, keepdim=True)
        return result.contiguous().to(images.device), None

    def _generator(self, name: str) -> np.random.Generator:
        """The random numbers of one image, the same in every batch, order and process."""
        text = f"{self.seed}/{self.kind}/{self.severity}/{name}"
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))


def corruptions_at(severity: int) -> dict[str, Corruption]:
    """Return all 15 corruptions at one severity, by the name of their kind.

    Args:
        severity: 1 (mild) … 5.

    Raises:
        Refusal: `severity` does not exist.

    Example:
        >>> list(corruptions_at(1))[:3]
        ['gaussian_noise', 'shot_noise', 'impulse_noise']
    """
    return {kind: Corruption(kind, severity) for kind in KINDS}
