"""The sources of an experiment, each opened when it is first asked for."""

from collections import Counter
from functools import cached_property
from typing import Literal

from lightning_gradood.data.loaded import LoadedSource
from lightning_gradood.data.loaders import labelled
from lightning_gradood.data.manifest import Manifest, make_manifest
from lightning_gradood.data.opening import Opening, refuse_other_shape
from lightning_gradood.data.perturbations import Perturbations, Twins
from lightning_gradood.data.settings import given_train
from lightning_gradood.data.source import Source
from lightning_gradood.errors import Refusal
from lightning_gradood.records import NORMAL, SPLITS


class ExperimentSources:
    """What `ImageDataModule` knows of its sources beyond how they are batched; its constructor sets the attributes."""

    normal: Source | str
    anomalies: dict[str, Source | str]
    train: Source | str | None
    split: tuple[float, float, float]
    split_seed: int
    keep: Literal["all", "successful"]
    limit: int | None
    opening: Opening
    perturbations: Perturbations

    @cached_property
    def train_source(self) -> LoadedSource:
        """The classifier's training images.

        Raises:
            Refusal: None are configured, or some have no class.
        """
        return labelled(self.opening.load("train", given_train(self.train)))

    @cached_property
    def normal_source(self) -> LoadedSource:
        """The normal source; labels are indices into the training images' classes where both have names."""
        classes = None if self.train is None else self.train_source.classes
        normal = self.opening.load(NORMAL, self.normal, self.limit, classes)
        if self.train is not None:
            refuse_other_shape(self.train_source, normal)
        return normal

    @cached_property
    def detection_sources(self) -> dict[str, LoadedSource]:
        """Every source a detector sees, `normal` first; opened at first use.

        Raises:
            Refusal: A source cannot be opened, or its images have another shape than the normal ones.
        """
        sources = {NORMAL: self.normal_source}
        for name, anomaly in self.anomalies.items():
            sources[name] = self.opening.load(name, anomaly, self.limit)
            refuse_other_shape(sources[name], self.normal_source)
        return sources

    @cached_property
    def manifest(self) -> Manifest:
        """The split of every detection source's images.

        Raises:
            Refusal: A source has too few images to fill every split.
        """
        ids = {name: source.ids for name, source in self.detection_sources.items()}
        labels = {name: source.labels for name, source in self.detection_sources.items()}
        return make_manifest(ids, labels, self.split, self.split_seed)

    @cached_property
    def twins(self) -> dict[str, Twins]:
        """What attacks and corruptions make of the normal images, by name.

        Which images a limit takes is settled by the split of `limit_seed`, so that other splits attack the same ones.

        Raises:
            Refusal: A limit leaves a split without images of an attack or corruption.
        """
        normal = self.normal_source
        settled = make_manifest({NORMAL: normal.ids}, {NORMAL: normal.labels}, self.split, self.opening.seed)
        twins = self.perturbations.of(normal, settled.split_of)
        for name, limit in self.perturbations.limits.items():
            counts = Counter(self.manifest.split_of[origin] for origin in twins[name].origins)
            if len(counts) < len(SPLITS):
                raise Refusal(
                    f"`limits.{name}` should leave images in every split. Got `limits.{name} = {limit}`, which gives "
                    f"{dict(counts)}. Raise it."
                )
        return twins

    @property
    def anomaly_names(self) -> list[str]:
        """The names of all anomalous sources, those of attacks and corruptions last."""
        return [*self.anomalies, *self.perturbations.names]

    def keep_of(self, source: str) -> Literal["all", "successful"]:
        """Which images of an anomalous source are detected; only attacks can succeed or fail."""
        return self.keep if source in self.perturbations.attacks else "all"

    def noise_of(self, source: str) -> str | None:
        """The name of an attack's noise control, if there is one."""
        return self.perturbations.noise_names.get(source)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of `train`, or else of `normal`; None where they have no labels."""
        return (self.normal_source if self.train is None else self.train_source).num_classes
