"""Synthetic outliers without the network: noise, shuffled parts, colours, shapes, and images without the original.

Bounds `low` and `high` are those of a number drawn for each image.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradood.core import image_generator
from lightning_gradood.perturbations.perturbation import Made, Perturbation


class Draws:
    """Random numbers for a batch, on the device and in the dtype of `like`.

    Each image has a stream of its own for the `name` of an outlier, whatever batch it comes in.
    """

    def __init__(self, seed: int, name: str, ids: Sequence[str], like: Tensor) -> None:
        self._streams = [image_generator(seed, f"{one}/{name}") for one in ids]
        self._like = like

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers between two bounds, [N, *shape]; [N, 1, 1, 1] without a shape."""
        return low + (high - low) * self._each(lambda stream: torch.rand(shape or (1, 1, 1), generator=stream))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, [N, *shape]."""
        return self._each(lambda stream: torch.randn(shape, generator=stream))

    def integers(self, low: int, high: int) -> list[int]:
        """One integer from `low` to `high` − 1 for each image."""
        return [int(torch.randint(low, high, (), generator=stream)) for stream in self._streams]

    def permutation(self, row: int, number: int) -> list[int]:
        """The numbers below `number` in random order, for image `row`."""
        order: list[int] = torch.randperm(number, generator=self._streams[row]).tolist()
        return order

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(stream) for stream in self._streams]).to(self._like)


@dataclass(frozen=True)
class SyntheticOutlier(Perturbation):
    """Makes of a normal image one that stands for unknown anomalies, from that image alone.

    No second image takes part, so that an outlier lies in the split of its one image. A subclass is a frozen dataclass
    and writes `_make`; pixels are then clipped to [0, 1].

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Fade(SyntheticOutlier):
        ...     def _make(self, images, draws):
        ...         return images * draws.uniform(0.1, 0.5)
        >>> Fade().name, Fade().craft(torch.nn.Flatten(), torch.ones(2, 1, 2, 2), torch.zeros(2).long()).images.shape
        ('fade', torch.Size([2, 1, 2, 2]))
    """

    seed: int = field(default=0, kw_only=True)

    @property
    def name(self) -> str:
        """In ids, tables and the records' column `attack`: the name of the class in snake case."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        """Return outliers [N, C, H, W] of images [N, C, H, W], pixels in [0, 1]; `images` is a copy."""

    def _craft(self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Made:
        return self._make(images, Draws(self.seed, self.name, ids, images)).clamp(0, 1), None


@dataclass(frozen=True)
class GaussianNoise(SyntheticOutlier):
    """Normal noise of a standard deviation of `low` to `high`, of pixels in [0, 1]."""

    low: float = 0.02
    high: float = 0.15

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        return images + draws.uniform(self.low, self.high) * draws.normal(*images.shape[1:])


@dataclass(frozen=True)
class SignNoise(SyntheticOutlier):
    """An amount of `low` to `high` added to some pixels and taken from the others, at random."""

    low: float = 0.02
    high: float = 0.08

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        return images + draws.uniform(self.low, self.high) * draws.normal(*images.shape[1:]).sign()


@dataclass(frozen=True)
class PatchShuffle(SyntheticOutlier):
    """A grid of patches, 2 to `most` along a side, in random order; pixels beyond the last whole patch stay."""

    most: int = 4

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        for row, grid in enumerate(draws.integers(2, self.most + 1)):
            height, width = images.shape[2] // grid, images.shape[3] // grid
            part = images[row, :, : grid * height, : grid * width]
            patches = part.unfold(1, height, height).unfold(2, width, width).flatten(1, 2)  # [C, grid², h, w]
            shuffled = patches[:, draws.permutation(row, grid * grid)].reshape(-1, grid, grid, height, width)
            part.copy_(shuffled.permute(0, 1, 3, 2, 4).reshape(part.shape))
        return images


@dataclass(frozen=True)
class Overlay(SyntheticOutlier):
    """The image, with a share of `low` to `high`, mixed with itself upside down: two objects in one picture."""

    low: float = 0.35
    high: float = 0.65

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        share = draws.uniform(self.low, self.high)
        return share * images + (1 - share) * images.flip(2, 3)


@dataclass(frozen=True)
class Blur(SyntheticOutlier):
    """Gaussian blur of a standard deviation of `low` to `high`, as a share of the shorter side."""

    low: float = 0.02
    high: float = 0.07

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        side = min(images.shape[2:])
        sigma = draws.uniform(self.low, self.high).flatten() * side
        reach = min(max(1, math.ceil(3 * self.high * side)), side - 1)
        offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        kernels = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
        kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)[:, None, :, None]
        flat = images.flatten(0, 1)[None]
        for weights, padding in ((kernels, (0, 0, reach, reach)), (kernels.transpose(2, 3), (reach, reach, 0, 0))):
            flat = F.conv2d(F.pad(flat, padding, mode="reflect"), weights, groups=len(weights))
        return flat.reshape(images.shape)


@dataclass(frozen=True)
class ChannelPermutation(SyntheticOutlier):
    """Channels in another order; an image of one channel stays as it is, and is then no outlier."""

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        channels = images.shape[1]
        for row in range(len(images) if channels > 1 else 0):
            order = draws.permutation(row, channels)
            if order == sorted(order):
                order = [*order[1:], order[0]]
            images[row] = images[row, order]
        return images


@dataclass(frozen=True)
class Solarise(SyntheticOutlier):
    """Pixels above a level of `low` to `high` turned into their negative."""

    low: float = 0.3
    high: float = 0.7

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        return torch.where(images > draws.uniform(self.low, self.high), 1 - images, images)


@dataclass(frozen=True)
class Rotation(SyntheticOutlier):
    """Turned by 90, 180 or 270 degrees; by 180 where the image is not square."""

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        square = images.shape[2] == images.shape[3]
        quarters = [quarter if square else 2 for quarter in draws.integers(1, 4)]
        return torch.stack([torch.rot90(*one, (1, 2)) for one in zip(images, quarters, strict=True)])


@dataclass(frozen=True)
class Zoom(SyntheticOutlier):
    """A square from inside the image, its side a share of `low` to `high` of the shorter side, enlarged to its size."""

    low: float = 0.25
    high: float = 0.5

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        size = images.shape[2:]
        sides = (draws.uniform(self.low, self.high).flatten() * min(size)).round().clamp(min=1).long().tolist()
        places = draws.uniform(0, 1, 2).tolist()
        parts = []
        for image, side, place in zip(images, sides, places, strict=True):
            part = _piece(image, (side, side), place)[None]
            parts.append(F.interpolate(part, size=tuple(size), mode="bicubic", align_corners=False))
        return torch.cat(parts)


@dataclass(frozen=True)
class Elastic(SyntheticOutlier):
    """Bent by a smooth random field of shifts of a standard deviation of `low` to `high`, of half the image's side."""

    low: float = 0.1
    high: float = 0.35

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        coarse = draws.normal(2, 5, 5) * draws.uniform(self.low, self.high)
        shifts = F.interpolate(coarse, size=tuple(images.shape[2:]), mode="bicubic", align_corners=True)
        still = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
        grid = F.affine_grid(still, list(images.shape), align_corners=False) + shifts.permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class ColourField(SyntheticOutlier):
    """Clouds of colour whose amplitude falls with frequency as in natural images, by an exponent of `low` to `high`."""

    low: float = 0.5
    high: float = 2.0

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[2:]
        down, right = (torch.fft.fftfreq(side, device=images.device) for side in (height, width))
        frequency = (down[:, None].square() + right[None].square()).sqrt()
        frequency[0, 0] = 1 / max(height, width)
        fall = frequency.to(images) ** -draws.uniform(self.low, self.high)
        clouds = torch.fft.ifft2(torch.fft.fft2(draws.normal(*images.shape[1:])) * fall).real
        shared: Tensor = 0.3 * clouds.sum(1, keepdim=True) + 0.6 * clouds  # channels of photographs go together
        spread = shared.flatten(1).std(1, correction=0).view(-1, 1, 1, 1).clamp(min=1e-12)
        drawn: Tensor = draws.uniform(0.3, 0.7) + draws.uniform(0.08, 0.3) * shared / spread
        return drawn


@dataclass(frozen=True)
class Rectangles(SyntheticOutlier):
    """1 to `most` soft-edged rectangles of random colours on a random colour; nothing of the image is left."""

    most: int = 11

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        channels, height, width = images.shape[1:]
        colours = draws.uniform(0, 1, self.most + 1, channels, 1, 1)
        places = draws.uniform(0, 1, self.most, 4).tolist()
        counts = draws.integers(1, self.most + 1)
        drawn = colours[:, 0].expand(-1, -1, height, width).clone()
        for row, count in enumerate(counts):
            for number, (down, right, tall, wide) in enumerate(places[row][:count], start=1):
                top, left = int(down * height), int(right * width)
                bottom = top + max(1, round((0.06 + 0.55 * tall) * height))
                edge = left + max(1, round((0.06 + 0.55 * wide) * width))
                drawn[row, :, top:bottom, left:edge] = colours[row, number]
        return F.avg_pool2d(F.pad(drawn, (1, 1, 1, 1), mode="replicate"), 3, 1)


@dataclass(frozen=True)
class ZoomOut(SyntheticOutlier):
    """The image at a share of `low` to `high` of its size, and its mirror images around it."""

    low: float = 0.3
    high: float = 0.6

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        shrink = partial(F.interpolate, mode="bilinear", antialias=True, align_corners=False)
        sides = _sides(images, draws.uniform(self.low, self.high))
        return _mirrored((shrink(one[None], size=size)[0] for one, size in zip(images, sides, strict=True)), images)


@dataclass(frozen=True)
class Texture(SyntheticOutlier):
    """A piece from inside the image, its sides a share of `low` to `high` of the image's, and its mirror images around it."""

    low: float = 0.2
    high: float = 0.4

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        sides, corners = _sides(images, draws.uniform(self.low, self.high)), draws.uniform(0, 1, 2).tolist()
        return _mirrored(map(_piece, images, sides, corners), images)


@dataclass(frozen=True)
class Surroundings(SyntheticOutlier):
    """The middle half of the image replaced by mirror images of what is at its sides, by which most objects are lost."""

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        for axis in (2, 3):
            places, side = torch.arange(images.shape[axis], device=images.device), images.shape[axis]
            quarter = max(1, side // 4)
            near, far = (places >= quarter) & (places < side // 2), (places >= side // 2) & (places < side - quarter)
            places = torch.where(near, (2 * quarter - 1 - places).clamp(min=0), places)
            places = torch.where(far, (2 * (side - quarter) - 1 - places).clamp(max=side - 1), places)
            images = images.index_select(axis, places)
        return images


@dataclass(frozen=True)
class Sharpen(SyntheticOutlier):
    """Differences to the mean of the 3×3 pixels around, `low` to `high` times, added to the pixels."""

    low: float = 1.0
    high: float = 4.0

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        means = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return images + draws.uniform(self.low, self.high) * (images - means)


@dataclass(frozen=True)
class Recolour(SyntheticOutlier):
    """Colours turned by a random linear map about the image's mean colour: the identity and `low` to `high` of a normal one."""

    low: float = 0.3
    high: float = 0.9

    def _make(self, images: Tensor, draws: Draws) -> Tensor:
        channels, mean = images.shape[1], images.mean((2, 3), keepdim=True)
        amount, turn = draws.uniform(self.low, self.high, 1, 1), draws.normal(channels, channels)
        turned = torch.einsum("nij,njhw->nihw", torch.eye(channels).to(images) + amount * turn, images - mean)
        return turned + mean + 0.1 * draws.normal(channels, 1, 1)


def _sides(images: Tensor, shares: Tensor) -> list[list[int]]:
    """Height and width of a share of each image, at least 2 pixels."""
    return [[max(2, round(share * side)) for side in images.shape[2:]] for share in shares.flatten().tolist()]


def _piece(image: Tensor, sides: Sequence[int], place: Sequence[float]) -> Tensor:
    """Cut a piece out of an image [C, H, W]; a place of 0, 0 is the upper left corner, 1, 1 the lower right one."""
    top, left = (round(at * (side - own)) for at, side, own in zip(place, image.shape[1:], sides, strict=True))
    return image[:, top : top + sides[0], left : left + sides[1]]


def _mirrored(parts: Iterable[Tensor], like: Tensor) -> Tensor:
    """Repeat each part [C, h, w] with its mirror images until an image of the size of `like` is full."""

    def whole(part: Tensor) -> Tensor:
        for axis in (1, 2):
            places = torch.arange(like.shape[axis + 1], device=part.device) % (2 * part.shape[axis])
            part = part.index_select(axis, torch.minimum(places, 2 * part.shape[axis] - 1 - places))
        return part

    return torch.stack([whole(part) for part in parts])


WITHOUT_NETWORK: tuple[type[SyntheticOutlier], ...] = (
    *(GaussianNoise, SignNoise, PatchShuffle, Overlay, Blur, ChannelPermutation, Solarise, Rotation, Zoom, Elastic),
    *(ColourField, Rectangles, ZoomOut, Texture, Surroundings, Sharpen, Recolour),
)
