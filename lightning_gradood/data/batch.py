"""What a data loader yields: images with their labels and their rows in the source."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class ImageBatch(NamedTuple):
    """A batch of images of one source.

    Args:
        images: [N, C, H, W]; uint8 as loaded where the source is, float32 in [0, 1] once on the device.
        labels: Class indices, int64 [N]; -1 where the class is unknown.
        rows: The images' rows in their source, int64 [N]: `source.ids[row]` is the id.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor


def as_float(images: Tensor) -> Tensor:
    """Bring uint8 images to float32 in [0, 1]; float ones, which are there already, stay as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_it_is(batch: Any) -> Any:
    """Collate nothing: our data sets hand over whole batches. A function of its own so that workers can unpickle it."""
    return batch
