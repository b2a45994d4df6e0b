"""All sources of an experiment, images and perturbed ones, with the manifest of their splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_gradood.core import Perturbation, Refusal
from lightning_gradood.data.classes import Outputs, fit_to_outputs
from lightning_gradood.data.datasets import LoadedSource
from lightning_gradood.data.duplicates import groups_of, say_duplicates, say_shared, say_trained_on
from lightning_gradood.data.folder import Opening, refuse_other_shape
from lightning_gradood.data.loaders import labelled
from lightning_gradood.data.perturbations import Perturbations, PerturbedSource, built_in_probes
from lightning_gradood.data.source import Source
from lightning_gradood.data.splits import Manifest, make_manifest
from lightning_gradood.records import NORMAL, SPLITS


class ExperimentSources:
    """The sources of an experiment, each opened at first use; `ImageDataModule` sets the attributes and adds loaders."""

    normal: Source | str
    anomalies: dict[str, Source | str]
    train: Source | str | None
    split: tuple[float, float, float]
    split_seed: int
    keep: Literal["all", "successful"]
    limit: int | None
    opening: Opening
    perturbations: Perturbations
    knows_anomalies: bool
    """Whether the anomalous sources are the user's, rather than built-in probes."""
    output_names: Outputs | None
    """The network's outputs by name, where the user names them."""
    names_of_weights: Outputs | None = None
    """The network's outputs by name, where they came with its weights; set it before a source is opened."""
    outputs: int | None = None
    """How many outputs the network has; None until `fit_outputs` is told."""

    @cached_property
    def train_source(self) -> LoadedSource:
        """The classifier's training images."""
        if self.train is None:
            raise Refusal(
                "`data.train` should name the classifier's training images. Got `data.train = None`. "
                "Give `data.train`, or give trained weights and use `detect` in place of `fit`."
            )
        named, flag = (self.output_names, "data.classes") if self.output_names else (self.names_of_weights, "")
        return labelled(self.opening.load("train", self.train, classes=named, flag=flag))

    @cached_property
    def normal_source(self) -> LoadedSource:
        """The normal source; labels are indices into the classes of `output_names`, of the training images, or of the weights."""
        named, flag = self.output_names or self.names_of_weights, "data.classes" if self.output_names else ""
        if self.output_names is None and self.train is not None:
            named, flag = Outputs.of(self.train_source.classes), "train"
        normal = self.opening.load(NORMAL, self.normal, self.limit, named, flag)
        if self.train is not None:
            refuse_other_shape(self.train_source, normal)
        return normal

    @cached_property
    def detection_sources(self) -> dict[str, LoadedSource]:
        """Every source a detector sees, `normal` first; opened at first use."""
        sources = {NORMAL: self.normal_source}
        for name, anomaly in self.anomalies.items():
            sources[name] = self.opening.load(name, anomaly, self.limit)
            refuse_other_shape(sources[name], self.normal_source)
        return sources

    @cached_property
    def manifest(self) -> Manifest:
        """The split of every detection source's images."""
        ids = {name: source.ids for name, source in self.detection_sources.items()}
        labels = {name: source.labels for name, source in self.detection_sources.items()}
        return make_manifest(ids, labels, self.split, self.split_seed, self._groups)

    def compare_with_training(self) -> None:
        """Say it where normal images are training images too; all training images are read for it."""
        if self.train is not None:
            say_trained_on(self.train_source, self.normal_source)

    @cached_property
    def _groups(self) -> dict[str, NDArray[np.int64]]:
        """Which images of a source are the same one, which are kept in one split; said where there are any."""
        groups = {name: groups_of(source) for name, source in self.detection_sources.items()}
        for name, source in self.detection_sources.items():
            say_duplicates(source, groups[name])
        say_shared(self.detection_sources)
        return groups

    @cached_property
    def perturbed_sources(self) -> dict[str, PerturbedSource]:
        """The perturbed sources by name: what attacks and corruptions make of the normal images.

        Which images a limit takes is settled by the split of `limit_seed`, so that other splits attack the same ones.
        """
        normal = self.normal_source
        settled = make_manifest(
            {NORMAL: normal.ids}, {NORMAL: normal.labels}, self.split, self.opening.seed, {NORMAL: groups_of(normal)}
        )
        made = self.perturbations.of(normal, settled.split_of)
        for name, limit in self.perturbations.limits.items():
            counts = Counter(self.manifest.split_of[origin] for origin in made[name].origins)
            if len(counts) < len(SPLITS):
                raise Refusal(
                    f"`limits.{name}` should leave images in every split. Got `limits.{name} = {limit}`, which gives "
                    f"{dict(counts)}. Raise it."
                )
        return made

    def try_built_in_probes(self) -> None:
        """Where no anomalies are known, take built-in probes of the normal images in their place; see `built_in_probes`."""
        if self.knows_anomalies and not self.anomaly_names:
            self.knows_anomalies = False
            self.perturbations = built_in_probes(self.opening.seed)
            vars(self).pop("perturbed_sources", None)

    def make_synthetic(self, outliers: Mapping[str, Perturbation], probes: Sequence[str]) -> None:
        """Make synthetic outliers of normal images, in place of those asked for before."""
        taken = sorted({*outliers} & {*self.anomaly_names, *self.perturbations.noise_names.values()})
        if taken:
            raise Refusal(
                "`data.anomalies`, attacks and corruptions should not have names of synthetic outliers. "
                f"Got {taken}. Rename them."
            )
        self.perturbations = replace(self.perturbations, synthetic=outliers, synthetic_probes=frozenset(probes))
        vars(self).pop("perturbed_sources", None)

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
    def classes(self) -> list[str]:
        """Names of the classifier's classes, those of `train`, or else of `normal`; empty where they have none."""
        return (self.normal_source if self.train is None else self.train_source).classes

    @property
    def num_classes(self) -> int | None:
        """The number of classes of `train`, or else of `normal`; None where they have no labels."""
        return (self.normal_source if self.train is None else self.train_source).num_classes

    def fit_outputs(self, outputs: int) -> list[str]:
        """Leave out labels that cannot be outputs of the network: of fewer classes than it has, nobody knows which ones they are.

        Args:
            outputs: how many the network has; a single one tells two classes apart.

        Returns:
            Sentences about what was decided and a user could have meant otherwise; none for a number that is known already.
        """
        if self.outputs == outputs:
            return []
        self.outputs = outputs
        source = self.normal_source if self.train is None else self.train_source
        before = source.num_classes
        notes = fit_to_outputs(source, outputs, self.output_names)
        if source.num_classes != before:
            for kept in ("manifest", "perturbed_sources"):  # which depend on labels
                vars(self).pop(kept, None)
        return notes
