"""The settings of detection: what `--detection.*` sets."""

from dataclasses import dataclass, field
from typing import Literal

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import (
    MLP,
    Baseline,
    Combined,
    Consistency,
    Detector,
    Energy,
    GradientForest,
    GradientGaussian,
    GradientKNN,
    MahalanobisPP,
)
from lightning_gradood.evaluation.protocol import Protocol
from lightning_gradood.gradients import AllOnes, LabelDesign
from lightning_gradood.metrics import check_calibration, check_rate
from lightning_gradood.probes import LogitsProbe, Probe
from lightning_gradood.tasks import MLPSettings

Preset = Literal["paper", "no_anomalies", "one_pass"]


def no_anomalies() -> list[Detector]:
    """The detector for when no anomalies are known: confidence, features and views of the image, three forward passes."""
    return [Combined([Baseline(), MahalanobisPP(), Consistency()], name="no_anomalies")]


def one_pass(label_designs: list[LabelDesign]) -> list[Detector]:
    """A detector without known anomalies from one forward pass and its gradients: confidence, features, gradient norms."""
    members: list[Detector] = [Baseline(), MahalanobisPP(), GradientGaussian(label_designs)]
    return [Combined(members, rule="squares", name="one_pass")]


@dataclass
class DetectionSettings:
    """Settings of detection: label designs, detectors, protocol, metrics, seeds.

    Args:
        label_designs: confounding labels, e.g. [AllOnes]; several together make one longer representation, and the
            paper's all-ones label, if it is one of several, is then reported alone too, as `mlp_all_ones`.
        mlp: the paper's detector, a 2-layer MLP.
        detectors: further detectors by class path.
        preset: `paper`, the MLP alone; `no_anomalies`, also a detector that combines confidence, features and views of the image,
            three forward passes; `one_pass`, also one that combines confidence, features and gradient norms from one forward
            pass. A preset and `detectors` add up.
        protocol: what the detectors may know: `known`, the very source they are tested on, as in the paper; `leave_one_out`, all
            sources but the tested one; `cross`, each source in turn, and tested on every one.
        metrics: conventions whose arithmetic is reported too, under `<convention>/<metric>`, to compare with their tables.
        false_positive_rate: share of normal images that a detector without known anomalies may flag: its threshold is a
            split-conformal quantile of the scores of the normal `val` images.
        guard: name of the detector that guards new images, see `score`; by default the best on `val` of those that need no
            anomalies. One that needs them is fitted on all anomaly sources together.
        resamples: bootstrap resamples for the 95 % interval of the AUROC.
        seed: of the detectors and the bootstrap; the splits have theirs in `data.split_seed`.
    """

    label_designs: list[LabelDesign] = field(default_factory=lambda: [AllOnes()])
    mlp: MLPSettings = field(default_factory=MLPSettings)
    detectors: list[Detector] = field(default_factory=list)
    preset: Preset = "paper"
    protocol: Protocol = "known"
    metrics: list[Literal["lee2018", "odin", "openood", "energy"]] = field(default_factory=list)
    false_positive_rate: float = 0.05
    guard: str | None = None
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.label_designs:
            raise Refusal("`detection.label_designs` should name at least one label design. Got none. Try [AllOnes].")
        designs = [design.name for design in self.label_designs]
        if len(set(designs)) < len(designs):
            raise Refusal(
                f"`detection.label_designs` should have different names. Got {designs}. Remove or rename one."
            )
        check_rate(self.false_positive_rate)
        if self.resamples < 1:
            raise Refusal(f"`detection.resamples` should be at least 1. Got `resamples = {self.resamples}`.")

    def probes(self, anomalies: bool = True) -> list[Probe]:
        """The probes of all detectors, each once; logits come with the pass at no cost and give the predictions.

        Args:
            anomalies: whether any are known.
        """
        probes = [probe for detector in self.detectors_for(anomalies) for probe in detector.probes]
        found: dict[str, Probe] = {}
        for probe in [*probes, LogitsProbe()]:
            if found.setdefault(probe.name, probe).describe() != probe.describe():
                raise Refusal(
                    "`detection.detectors` should agree on what they read under one name. "
                    f"Got two settings of `{probe.name}`. Give those detectors the same settings, or run one of them alone."
                )
        return list(found.values())

    def detectors_for(self, anomalies: bool = True) -> list[Detector]:
        """The detectors that are fitted: all of them, or without known anomalies those that need none.

        Args:
            anomalies: whether any are known.
        """
        return self.build() if anomalies else self.without_anomalies(known=False)

    def without_anomalies(self, known: bool) -> list[Detector]:
        """The detectors that need no anomalies.

        Args:
            known: whether anomalies are known. Where no such detector is named, these are then some that read what is read
                anyway, and otherwise the preset for that case, and two of what it is compared with.
        """
        named = [detector for detector in self.build() if not detector.needs_anomalies]
        designs = self.label_designs
        cheap: list[Detector] = [
            GradientGaussian(designs),
            GradientKNN(designs),
            GradientForest(designs),
            Baseline(),
            Energy(),
        ]
        return named or (cheap if known else [*no_anomalies(), GradientKNN(designs), Energy()])

    def guarding(self, anomalies: bool = True) -> list[Detector]:
        """The detectors among which the guard's is chosen.

        Args:
            anomalies: whether any are known.

        Raises:
            Refusal: `guard` names none of them.
        """
        candidates = self.without_anomalies(anomalies)
        if self.guard is None:
            return candidates
        known = {one.name: one for one in [*candidates, *(self.build() if anomalies else [])]}
        if self.guard not in known:
            raise Refusal(
                f"`detection.guard` should name a detector of this experiment. Got `detection.guard = {self.guard}`. "
                f"Choose among {', '.join(known)}."
            )
        return [known[self.guard]]

    def build(self) -> list[Detector]:
        """All detectors, the MLPs first."""
        all_ones = [design for design in self.label_designs if design == AllOnes()]
        alone: list[Detector] = []
        if all_ones and len(self.label_designs) > 1:
            alone = [MLP(all_ones, self.mlp, name="mlp_all_ones")]
        presets = {"paper": [], "no_anomalies": no_anomalies(), "one_pass": one_pass(self.label_designs)}
        detectors: list[Detector] = [*alone, MLP(self.label_designs, self.mlp), *presets[self.preset], *self.detectors]
        names = [detector.name for detector in detectors]
        if len(set(names)) < len(names):
            raise Refusal(f"`detection.detectors` should have different names. Got {names}. Remove one.")
        return detectors

    def check_train_images(self, in_train: int, anomalies: bool = True) -> None:
        """Refuse too few normal images in `train` for a detector that divides them into folds.

        Args:
            in_train: number of normal images in `train`.
            anomalies: whether any are known.
        """
        for detector in self.detectors_for(anomalies):
            if isinstance(detector, Combined) and in_train < detector.fewest:
                raise Refusal(
                    f"`data.normal` should have at least {detector.fewest} images in `train` for `{detector.name}`. "
                    f"Got {in_train}. Add images, or name other detectors with --detection.detectors."
                )

    def check_normal_images(self, in_val: int, anomalies: bool = True) -> None:
        """Refuse too few normal images in `val` for the false-positive rate, if a threshold that was asked for rests on them.

        Args:
            in_val: number of normal images in `val`.
            anomalies: whether any are known.
        """
        if not all(detector.needs_anomalies for detector in self.detectors_for(anomalies)):
            check_calibration(in_val, self.false_positive_rate)
        if self.guard is not None:
            (detector,) = self.guarding(anomalies)
            check_calibration((in_val + 1) // (2 if detector.needs_anomalies else 1), self.false_positive_rate)
