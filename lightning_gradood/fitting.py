"""A guard in one call: `fit_guard(network, normal_images)` is the verb `detect` without files, folders and a Trainer."""

import copy
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms._presets import ImageClassification

from lightning_gradood.core import Refusal, Transform, generator_states, restore_generators, say, uncompiled
from lightning_gradood.data import DatasetSource, ImageDataModule, Source
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.extraction import ImageProgressBar
from lightning_gradood.guard import Guard, recipe_of
from lightning_gradood.networks import Logits, Normalized
from lightning_gradood.report import Run
from lightning_gradood.tasks import ClassificationTask, Normalization
from lightning_gradood.trainer import Trainer

ImageSet = Tensor | DataLoader[Any] | Dataset[Any] | Sequence[Any] | Source | str | os.PathLike[str]
"""Images as `fit_guard` takes them."""

_ADVERTISED = ("Tip: ", "GPU available", "TPU available", "HPU available")  # in Lightning's log at every start

_WORDS = {  # of this function, where `detect` names its flags
    r"`data\.normal": "`normal_images",
    r"`(?:data|detection)\.": "`",
    r"--(?:data|detection)\.(\w+)": r"`\1`",
    r"write --model\.outputs (\w+)": r"give networks.Logits(network, '\1')",
}


def fit_guard(
    network: nn.Module,
    normal_images: ImageSet,
    *,
    anomalies: Mapping[str, ImageSet] | None = None,
    transform: Transform | None = None,
    normalize: Normalization | Mapping[str, Sequence[float]] | None = None,
    classes: Sequence[str] | str | int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Guard:
    """Fit, calibrate and measure a guard for a trained classifier, on the device on which the classifier is.

    It is the guard of `detect` with the same settings; progress and what it finds on images that it was not fitted on are
    printed. Network and random numbers stay as they were, as the guard has a copy of the network, and no file is left.

    Args:
        network: pixels in [0, 1], float [N, C, H, W], in (see `normalize`), logits [N, classes] out.
        normal_images: images like those the network was trained on, at best unseen by it. A folder's path, as
            `data.FolderSource` reads it; a tensor [N, C, H, W], uint8 or float in [0, 1]; or a data set, a list or a
            `DataLoader` of PIL images or tensors [C, H, W], or of tuples that start with one and go on with a class index.
        anomalies: images by name that it should be suspicious of, each as `normal_images`.
        transform: of each picture, deterministic; the guard applies it to files and PIL images. A `Normalize` at its end is
            taken as `normalize`.
        normalize: `mean` and `std` of each channel, by which pixels are normalised before the network.
        classes: names of the network's outputs in their order, see `data.ImageDataModule`.
        cache_dir: a folder that keeps what is read of the network, for further calls.
        settings: fields of `evaluation.DetectionSettings`, such as `false_positive_rate=0.01`.

    Raises:
        Refusal: the images, or the network's outputs, are not of this kind; or they are too few for the rate.

    Examples:
        >>> guard = fit_guard(network, "photos/normal", false_positive_rate=0.01)  # doctest: +SKIP
        >>> guard("new.jpg").rows()  # doctest: +SKIP
    """
    for name, kind in get_type_hints(DetectionSettings).items():
        if get_origin(kind) is Literal and settings.get(name, get_args(kind)[0]) not in get_args(kind):
            raise Refusal(
                f"`{name}` should be one of {', '.join(get_args(kind))}. Got `{name} = {settings[name]}`. Choose one."
            )
    chosen, generators, place = DetectionSettings(**settings), generator_states(), TemporaryDirectory()
    try:
        with (
            place,
            _in_words_of_python(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.device("cpu"),
            _quiet(),
        ):
            if normalize is None:
                transform, normalize = _without_normalize(transform)
            bare = copy.deepcopy(uncompiled(network))
            if normalize is None and type(bare) is Normalized:
                normalize = {name: getattr(bare, name).flatten().tolist() for name in ("mean", "std")}
                bare = bare.network
            outputs = bare.outputs if type(bare) is Logits else "logits"
            bare = bare.network if type(bare) is Logits else bare
            device = next((one.device for one in bare.parameters()), torch.device("cpu"))
            data = ImageDataModule(
                _source("normal_images", normal_images),
                {name: _source(f"anomalies[{name!r}]", given) for name, given in (anomalies or {}).items()},
                classes=cast(Any, list(classes) if isinstance(classes, tuple) else classes),
                transform=transform,
            )
            trainer = Trainer(
                accelerator=device.type,
                devices=1 if device.index is None or device.type == "cpu" else [device.index],
                callbacks=[ImageProgressBar()],
                default_root_dir=place.name,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
            )
            trainer.experiment = "fit_guard"
            # Lightning would note SIGTERM and read on
            trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
            task = ClassificationTask(bare, cast(Any, normalize), outputs=outputs)
            trainer.detect(task, data, settings=chosen, cache_dir=str(cache_dir or Path(place.name, "records")))
            if trainer.guard is None:
                raise Refusal(Run.read(Path(place.name)).guard.sentence)
            guard = trainer.guard.to(device)
    finally:
        restore_generators(generators)
    try:
        recipe_of(guard.bare_network, transform)
    except Refusal as reason:
        say(f"The guard works in this process and cannot be saved. {reason}")
    return guard


def _without_normalize(transform: Any) -> tuple[Any, dict[str, list[float]] | None]:
    """A transform without the normalisation at its end, and that."""
    if isinstance(transform, ImageClassification):  # of torchvision's trained networks
        sizes = {"interpolation": transform.interpolation, "antialias": transform.antialias}
        steps: list[Any] = [Resize(transform.resize_size, **sizes), CenterCrop(transform.crop_size)]
        return Compose(steps), {"mean": list(transform.mean), "std": list(transform.std)}
    steps = list(getattr(transform, "transforms", []))
    if steps and type(steps[-1]).__name__ == "Normalize":
        return type(transform)(steps[:-1]), {name: list(getattr(steps[-1], name)) for name in ("mean", "std")}
    return transform, None


def _source(flag: str, given: ImageSet) -> Source | str:
    """A source of the images, of which the first is looked at."""
    if isinstance(given, Source):
        return given
    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    dataset: Any = TensorDataset(given.detach().cpu()) if isinstance(given, Tensor) else given
    if isinstance(given, DataLoader):
        dataset = _rows_of(flag, given)
    try:
        firsts = [dataset[0] for _ in range(4)] if len(dataset) else []
    except (TypeError, NotImplementedError, KeyError) as error:
        raise Refusal(
            f"`{flag}` should be a folder, a tensor [N, C, H, W], or a data set, list or DataLoader of images. Got a "
            f"{type(given).__name__}. Give a data set whose rows can be read by their number, or torch.stack the images."
        ) from error
    images = [one[0] if isinstance(one, tuple | list) else one for one in firsts]
    for one in images:
        if not (isinstance(one, Image.Image) or (isinstance(one, Tensor) and one.ndim == 3)):
            got = f"a tensor {list(one.shape)}" if isinstance(one, Tensor) else f"a {type(one).__name__}"
            raise Refusal(
                f"`{flag}` should give PIL images or tensors [C, H, W], alone or first in a tuple. Got {got}. Wrap it into a "
                "data set that does."
            )
        if isinstance(one, Tensor) and one.is_floating_point() and not (one.min() >= 0 and one.max() <= 1):
            raise Refusal(
                f"`{flag}` should be pixels in [0, 1]. Got values from {one.min():.4g} to {one.max():.4g}. Divide 8-bit pixels "
                "by 255; leave normalisation out of the data, and name it: `normalize={'mean': [...], 'std': [...]}`."
            )
    if any(isinstance(one, Tensor) and not torch.equal(one, images[0]) for one in images):
        raise Refusal(
            f"`{flag}` should give the same image for a row each time. Got another one, as from a random transform. "
            "Give the data without augmentation."
        )
    return DatasetSource(partial(_itself, dataset))


def _itself(dataset: Any) -> Any:
    return dataset


def _rows_of(flag: str, loader: DataLoader[Any]) -> Dataset[Any]:
    """The rows of a loader's data set that it gives, in their order; its batches where it makes images of its own."""
    if (
        not isinstance(loader.dataset, IterableDataset)
        and loader.collate_fn is default_collate
        and loader.batch_sampler
    ):
        rows = sorted({row for batch in loader.batch_sampler for row in batch})
        every = rows == list(range(len(cast(Any, loader.dataset))))
        return loader.dataset if every else Subset(loader.dataset, rows)
    batches = [tuple(one) if isinstance(one, tuple | list) else (one,) for one in loader]
    others = {type(one[0]).__name__ for one in batches if not isinstance(one[0], Tensor)}
    if others or not batches:
        raise Refusal(
            f"`{flag}` should be a DataLoader of tensors [N, C, H, W], alone or first in a tuple. Got batches of "
            f"{', '.join(sorted(others)) or 'nothing'}. Give the images as a tensor or a data set."
        )
    labelled = all(len(one) > 1 and isinstance(one[1], Tensor) and one[1].ndim == 1 for one in batches)
    return TensorDataset(*map(torch.cat, zip(*(one[: 1 + labelled] for one in batches), strict=True)))


@contextmanager
def _in_words_of_python() -> Iterator[None]:
    """Exchange flags in refusals."""
    try:
        yield
    except Refusal as refusal:
        sentence = str(refusal)
        for flag, word in _WORDS.items():
            sentence = re.sub(flag, word, sentence)
        raise type(refusal)(sentence) from refusal


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Lightning says at every start, and torch's warning of Lightning."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")

    def keeps(record: logging.LogRecord) -> bool:
        return not any(word in record.getMessage() for word in _ADVERTISED)

    log.addFilter(keeps)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")
            yield
    finally:
        log.removeFilter(keeps)
