"""What an attack returns: images beside the clean ones they come from, before and after the network has judged them."""

from dataclasses import dataclass, replace

from torch import Tensor

from lightning_gradood.gradients import exact


@dataclass(frozen=True)
class Perturbed:
    """Anomalous images and what the attack achieved on each.

    Args:
        images: [N, ...], pixels in [0, 1].
        success: bool [N], whether the prediction differs from the label.
        target_hit: bool [N], whether the prediction is the target; None for attacks without targets.
        l2: float64 [N], Euclidean norm of the change of all pixels of an image; on the CPU where the images' device has no
            float64, as is `linf`.
        linf: float64 [N], largest change of a pixel.
    """

    images: Tensor
    success: Tensor
    target_hit: Tensor | None
    l2: Tensor
    linf: Tensor


@dataclass(frozen=True)
class Crafted:
    """Anomalous images that no network has judged yet.

    Args:
        images: [N, ...], pixels in [0, 1], no graph.
        clean: [N, ...], the images they were made from.
        labels: int64 [N], the class that each image should keep.
        targets: int64 [N], the class that each image was driven to; None for attacks without targets.
    """

    images: Tensor
    clean: Tensor
    labels: Tensor
    targets: Tensor | None = None

    def eight_bit(self) -> "Crafted":
        """Round to the 256 grey levels of a file, k / 255; small changes may vanish, and `eps` be exceeded by 1/510."""
        return replace(self, images=(self.images * 255).round() / 255)

    def judge(self, logits: Tensor) -> Perturbed:
        """Read from the network's logits what was achieved, without a further pass.

        Args:
            logits: [N, classes], the network's output for `images`.
        """
        predictions = logits.argmax(1)
        change = (exact(self.images) - exact(self.clean)).flatten(1)
        return Perturbed(
            images=self.images,
            success=predictions != self.labels,
            target_hit=None if self.targets is None else predictions == self.targets,
            l2=change.square().sum(1).sqrt(),
            linf=change.abs().amax(1),
        )
