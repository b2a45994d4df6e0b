"""The guard: a classifier, a fitted detector and a threshold that decide whether an image is anomalous."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_gradood.audit import RATES, Audit, Judged, Robustness, Target
from lightning_gradood.core import (
    LOG_FLOOR,
    MEGAPIXELS,
    PACKAGES,
    Picture,
    Portions,
    Refusal,
    as_float,
    check_images,
    decode,
    eight_bit,
    encode,
    exact_arithmetic,
    first_line,
    packages_of,
    printable,
    read_picture,
    say,
    to_pixels,
    unpack,
    upright,
)
from lightning_gradood.detectors import SavedDetector, load_detector, score_in_blocks
from lightning_gradood.guard.known_images import KnownImages
from lightning_gradood.guard.saving import (
    DETECTOR,
    GUARD,
    KNOWN,
    PROBES,
    Description,
    built_network,
    damaged,
    guard_folder,
    read_description,
    recipe_of,
    write_guard,
)
from lightning_gradood.guard.scoring import FileVerdict, ImageFiles, Verdict, score_files
from lightning_gradood.guard.showing import GuardReport, facts, table_html
from lightning_gradood.metrics import ClassThresholds, conformal_p_values, conformal_threshold, needed_images
from lightning_gradood.probes import GradientProbe, Probe, read_probes
from lightning_gradood.records import Records, normal_records

_UNFIT = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)

Images = Tensor | Picture | str | os.PathLike[str] | Sequence[Picture | str | os.PathLike[str]]
"""A batch that is ready for the network; or one picture or path of an image file, or several, which `Guard.read` prepares."""


class Guard:
    """A classifier with a fitted detector and a threshold; make it with `fit_guard` or `Guard.load`.

    Calls are thread-safe: one at a time reads the network. They work inside `torch.no_grad`, `torch.inference_mode` and
    autocast; the network is read in float32 with the gradients that it needs. Guards can be pickled and deep-copied, if
    their network can, and show themselves as a table in a notebook.

    Args:
        network: pixels in [0, 1] in, logits out.
        saved: the detector with what it has learnt.
        probes: those that it reads, prepared where they need it.
        transform: of a picture; None for none.
        about: everything else.
        known: images whose readings it keeps, to be refitted with, see `refit`.
    """

    def __init__(
        self,
        network: nn.Module,
        saved: SavedDetector,
        probes: Sequence[Probe],
        transform: Any,
        about: Description,
        known: KnownImages,
    ) -> None:
        self.network, self.saved, self.fitted, self.probes = network, saved, saved.fitted, list(probes)
        self.transform, self.about, self.known = transform, about, known
        self.threshold = about.threshold
        self.calibration = np.array(about.calibration)
        self.class_thresholds: ClassThresholds | None = None
        self._portions = Portions()

    @classmethod
    def load(cls, folder: str | Path, trust: Collection[str] = (), device: str | torch.device = "cpu") -> Self:
        """Load a guard that `detect` has saved; no code of the folder is executed.

        Args:
            folder: of the guard, or of the run that saved it.
            trust: packages of your own whose classes `guard.json` may name.

        Raises:
            Refusal: a file is missing or altered; a class is not trusted, not installed or changed; or this machine has no
                such device.
        """
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise Refusal(
                f"`--device` should be a device of this machine. Got `--device {device}`: {first_line(error)}."
            ) from error
        place = guard_folder(folder)
        try:
            about = read_description(place)
            network, transform = built_network(place, about, trust), decode(about.transform, trust)
            saved, probes = load_detector(place / DETECTOR, trust), unpack(place / PROBES, trust)
            known = unpack(place / KNOWN, trust)
            if [one.name for one in probes] != [one.name for one in saved.detector.probes]:
                raise ValueError("other probes than the detector's")
            if not isinstance(known, KnownImages) or [*known.values] != [one.name for one in probes]:
                raise ValueError("images that other probes have read")
        except Refusal:
            raise
        except _UNFIT as error:  # the files are whole, but do not belong together or may not be read
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise damaged(place, f"parts that do not fit together ({why})") from error
        return cls(network, saved, probes, transform, about, known).to(device)

    def __call__(self, images: Images) -> Verdict:
        """Score images, all in memory at once; see `score_files` for many.

        Args:
            images: a batch that is ready for the network, pixels in [0, 1], float [N, C, H, W] (or uint8, 0 … 255), on any
                device; or a PIL image, the path of an image file, or a list of pictures and paths, which `read` prepares.

        Raises:
            Refusal: they have another shape or range, cannot be read, or give logits that are not finite.
        """
        images = self._batch(images)
        self._check(images)
        if not len(images):
            none: Any = [np.empty(0, kind) for kind in (float, float, bool, np.int64, float)]
            return Verdict(*none)
        blocks = torch.split(images, self.about.batch_size)
        parts = [found for block in blocks for found in self._portions.run(partial(self._read, block), len(block))]
        records, probabilities = zip(*parts, strict=True)
        table = Records.concatenate(list(records))
        with torch.device("cpu"):  # whatever the caller's default is
            scores, predictions = score_in_blocks(self.fitted, table), table.column("prediction").astype(np.int64)
        p_values, largest = conformal_p_values(self.calibration, scores), np.concatenate(probabilities)
        thresholds = self.class_thresholds(predictions) if self.class_thresholds else self.threshold
        return Verdict(scores, p_values, scores > thresholds, predictions, largest, self.about.classes)

    def read(self, picture: Picture | str | os.PathLike[str], name: str = "picture") -> Tensor:
        """Convert a picture to the network's input: uint8, or float32 in [0, 1], [C, H, W].

        Args:
            picture: a PIL image, which is turned as its EXIF orientation says, a tensor [C, H, W], or the path of an image
                file.
            name: for the message.

        Raises:
            Refusal: it is something else, or has another size than the images that the guard was fitted on.
        """
        if isinstance(picture, str | os.PathLike):
            name = printable(os.fspath(picture))
            picture = read_picture(picture, self.about.picture)
        elif isinstance(picture, Image.Image):
            picture = upright(eight_bit(picture, name)).convert(self.about.picture)
        elif not isinstance(picture, Tensor):
            raise Refusal(
                f"`{name}` should be a PIL image, a tensor [C, H, W] or the path of an image file. Got a "
                f"{type(picture).__name__}. Convert an array with PIL.Image.fromarray or torch.from_numpy."
            )
        pixels = to_pixels(picture, self.transform, name)
        if list(pixels.shape) != self.about.image_shape:
            expected, got = (f"{height} × {width}" for _, height, width in (self.about.image_shape, pixels.shape))
            raise Refusal(
                f"`{name}` should be an image of {expected} pixels with {self.about.image_shape[0]} channels after the "
                f"guard's transform. Got {got} with {len(pixels)}. Resize the images, or fit the guard with a "
                "`data.transform` that does, such as torchvision.transforms.v2.Resize."
            )
        return pixels

    def score_files(
        self, paths: ImageFiles, batch_size: int | None = None, megapixels: float = MEGAPIXELS
    ) -> Iterator[FileVerdict]:
        """Score image files in their order, holding a few batches in memory; yields a verdict for each.

        Files that are missing, no image, damaged, too large, or of another size than the guard's images after its
        transform, have an `error`.

        Args:
            paths: of files, or files in memory; one alone may be a folder or a pattern too, see `image_paths`.
            batch_size: files whose images are read from the network together; by default as many as when the guard was
                calibrated.
            megapixels: larger images are not decoded.
        """
        return score_files(self, paths, batch_size, megapixels)

    def report(self, images: Images, most: int = 8) -> GuardReport:
        """Score images as `__call__` does, and show their scores beside the normal ones, and the most anomalous of them."""
        several: Any = images if isinstance(images, Tensor | list | tuple) else [images]
        names = [str(one) if isinstance(one, str | os.PathLike) else f"image {row}" for row, one in enumerate(several)]
        batch = self._batch(images)
        return GuardReport.of(self, batch, self(batch).rows(), names, most)

    def audit(
        self,
        images: Images,
        labels: Tensor | Sequence[int] | None = None,
        settings: Audit = Audit(),  # noqa: B008 - frozen, so sharing it is harmless
    ) -> Robustness:
        """Attack classifier and detector at once, and say what an attacker who knows both reaches.

        Args:
            images: normal ones, or for `hide` anomalous ones, as for `__call__`.
            labels: their classes [N]; by default the classifier's predictions.
            settings: what is attacked, how far and how hard.
        """
        allowed = [one for one in RATES if needed_images(one) <= len(self.calibration)]
        settings = replace(settings, rates=settings.rates or allowed or [self.about.false_positive_rate])
        batch = self._batch(images)
        self._check(batch)
        pixels = as_float(batch).float().to(self.device)
        given = None if labels is None else torch.as_tensor(labels, dtype=torch.int64, device=self.device)

        def verdict(some: Tensor) -> Judged:
            found = self(some)
            return Judged(found.predictions, found.scores)

        parts = (self.network, self.probes, self.fitted, self.calibration, max(settings.rates))
        with exact_arithmetic():
            return settings.run(Target(*parts, self.about.identity), pixels, given, verdict)

    def save(self, folder: str | Path) -> None:
        """Save the guard, load it again and compare the scores of random images; an older guard there is replaced whole.

        A network that came from memory is built again as `recipe_of` finds.

        Raises:
            Refusal: the folder holds something else; or the network cannot be built again, or gives other scores then.
        """
        place, guard = Path(folder).expanduser().resolve(), copy.copy(self)
        if place.exists() and not (place / GUARD).is_file() and (not place.is_dir() or any(place.iterdir())):
            raise Refusal(
                f"`folder` should be new, empty, or that of an older guard. Got `{folder}`, which holds something else. "
                "Name another."
            )
        guard.about = replace(self.about, threshold=self.threshold)
        if self.class_thresholds:
            say(
                "The saved guard has one threshold for all classes: call `with_class_thresholds` on it once it is loaded."
            )
        if not self.about.network:
            recipe = recipe_of(self.bare_network, self.transform)
            guard.about = replace(guard.about, network=recipe.network, transform=recipe.transform)
        noise = torch.rand(4, *self.about.image_shape, generator=torch.Generator().manual_seed(0), device="cpu")
        write_guard(guard, place, noise, self(noise).scores, "folder")

    def records(self, images: Tensor) -> Records:
        """Read the detector's probes, as `__call__` does; for `explain`."""
        self._check(images)
        return self._read(images)[0]

    def to(self, device: str | torch.device) -> Self:
        """Move the network; returns the guard itself."""
        with exact_arithmetic():
            self.network.to(device)
        return self

    def with_threshold(self, threshold: float) -> Guard:
        """The same guard with another threshold, for all classes; the network is shared."""
        other = copy.copy(self)
        other.threshold, other.class_thresholds = float(threshold), None
        return other

    def with_false_positive_rate(self, rate: float) -> Guard:
        """The same guard flagging another share of normal images, in (0, 1), as calibration images allow."""
        other = self.with_threshold(conformal_threshold(self.calibration, rate, flag="--false_positive_rate"))
        other.about = replace(self.about, false_positive_rate=rate)
        return other.with_class_thresholds() if self.class_thresholds else other

    def with_class_thresholds(self) -> Guard:
        """The same guard that keeps its rate for each predicted class, see `metrics.ClassThresholds`; p-values stay."""
        found = ClassThresholds(
            self.calibration, np.array(self.about.calibration_classes), self.about.false_positive_rate
        )
        needed, most = needed_images(found.false_positive_rate), max(found.counts.values())
        if most < needed:
            raise Refusal(
                f"`--by_class` should have at least {needed} calibration images of a predicted class for a rate of "
                f"{found.false_positive_rate:g}. Got at most {most}. Calibrate with more images, or choose "
                f"`--false_positive_rate` of at least 1/{most + 1}."
            )
        other = copy.copy(self)
        other.class_thresholds = found
        return other

    @cached_property
    def usual_parts(self) -> dict[str, float]:
        """What each part of the detector adds to the score of a normal image, the mean over those that the guard keeps."""
        normal = normal_records(self.known.records)
        return {name: float(part.mean()) for name, part in self.saved.detector.parts(self.fitted, normal).items()}

    @cached_property
    def usual_readings(self) -> dict[str, np.ndarray]:
        """Probe to the mean of what it reads of the normal images that the guard keeps, geometric for gradient norms."""
        normal, found = normal_records(self.known.records), dict[str, np.ndarray]()
        for probe in self.probes:
            values = normal.probe(probe.name).astype(np.float64)
            logs = isinstance(probe, GradientProbe)
            found[probe.name] = np.exp(np.log(values + LOG_FLOOR).mean(axis=0)) if logs else values.mean(axis=0)
        return found

    @property
    def packages(self) -> list[str]:
        """Packages whose classes it has, and which `load` must be told to trust."""
        named = [self.about.network, self.about.transform, encode([self.saved, self.probes], {})]
        return sorted(packages_of(named) - set(PACKAGES))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((one.device for one in self.network.parameters()), torch.device("cpu"))

    @property
    def bare_network(self) -> nn.Module:
        """The network without what the guard puts around it: normalisation, logits of probabilities, a second logit."""
        bare: Any = self.network
        for _ in range(bool(self.about.one_logit) + bool(self.about.normalize) + (self.about.outputs != "logits")):
            bare = bare.network
        return bare  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Guard({', '.join(f'{name}: {value}' for name, value in facts(self).items())})"

    def _repr_html_(self) -> str:
        return table_html(facts(self))

    def _batch(self, images: Images) -> Tensor:
        if isinstance(images, Tensor):
            return images
        several: Any = images if isinstance(images, list | tuple) else [images]
        found = [self.read(one) for one in several]
        if len({one.dtype for one in found}) > 1:
            found = [as_float(one) for one in found]
        return torch.stack(found) if found else torch.empty(0, *self.about.image_shape)

    def _check(self, images: Tensor) -> None:
        if list(images.shape[1:]) != self.about.image_shape:
            raise Refusal(
                f"`images` should be [N, {', '.join(map(str, self.about.image_shape))}], as the guard was fitted on. "
                f"Got {list(images.shape)}. Use `guard.read` or `guard.score_files`, which apply the guard's transform."
            )
        if len(images) and images.dtype != torch.uint8:
            check_images(images.float() if images.is_floating_point() else images)

    def _read(self, images: Tensor, rows: slice = slice(None)) -> tuple[Records, np.ndarray]:
        images = images[rows]
        with exact_arithmetic():
            batch = as_float(images.detach().to(self.device).clone()).float()
            reading = read_probes(self.probes, self.network, batch)
        return reading.records(), reading.logits.cpu().double().softmax(dim=1).amax(dim=1).numpy()


def save_guard(guard: Guard, folder: Path, images: Tensor) -> Guard:
    """Save a guard, load it again, and compare the scores; an existing folder is replaced whole, or stays as it was.

    Args:
        images: float in [0, 1] or uint8, [N, C, H, W], of which it keeps the readings as the last.

    Raises:
        Refusal: the network cannot be built again from class path and arguments, or gives other scores then.
    """
    expected = score_in_blocks(guard.fitted, guard.known.records)[-len(images) :]
    return write_guard(guard, folder, images, expected, "--run_dir")
