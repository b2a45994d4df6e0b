"""The settings of detection: what `--detection.*` sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lightning_gradood.core import OpenUnitInterval, PositiveInt, Refusal, Seed, digest
from lightning_gradood.detectors import (
    MLP,
    Baseline,
    Combined,
    Consistency,
    Detector,
    Energy,
    GradientGaussian,
    GradientKNN,
    MahalanobisPP,
    SyntheticOutliers,
)
from lightning_gradood.evaluation.protocol import Protocol
from lightning_gradood.gradients import AllOnes, LabelDesign
from lightning_gradood.metrics import check_calibration
from lightning_gradood.perturbations import SyntheticOutlier
from lightning_gradood.probes import LogitsProbe, Probe
from lightning_gradood.records import SYNTHETIC
from lightning_gradood.tasks import MLPSettings

_LONGEST = 100  # letters of a detector's name
Preset = Literal["paper", "no_anomalies", "one_pass"]


def no_anomalies() -> list[Detector]:
    """Return the detector for unknown anomalies, with three forward passes and no gradients.

    It combines confidence, features, views of the image, and a model that tells normal images from synthetic outliers
    by these.
    """
    return [Combined([Baseline(), MahalanobisPP(), Consistency(), SyntheticOutliers()], name="no_anomalies")]


def one_pass() -> list[Detector]:
    """Return two detectors without known anomalies that read one forward pass and its gradients.

    The first combines confidence, features, gradient norms and two models against synthetic outliers; the second is the
    paper's, an MLP on gradient norms, trained against synthetic outliers.
    """
    paper = SyntheticOutliers(["norms"], model="mlp", name="mlp_on_synthetic")
    every = SyntheticOutliers(["features", "confidence", "norms"])
    members = [Baseline(), MahalanobisPP(), every, paper, GradientGaussian()]
    return [Combined(members, rule="squares", name="one_pass"), paper]


@dataclass
class DetectionSettings:
    """Settings of detection: label designs, detectors, protocol, metrics, seeds.

    Args:
        label_designs: confounding labels, e.g. [AllOnes]; several together make one longer representation, and the
            paper's all-ones label, if it is one of several, is then reported alone too, as `mlp_all_ones`.
        mlp: the paper's detector, a 2-layer MLP.
        detectors: further detectors by class path. Those that read gradients and name no label designs read the
            experiment's.
        preset: `paper`, the MLP alone; `no_anomalies`, also a detector that needs no anomalies, and reads confidence,
            features and views of the image in three forward passes; `one_pass`, also two that need none and read one
            forward pass and its gradients, the second of them the paper's MLP trained against synthetic outliers. A
            preset and `detectors` add up.
        protocol: what the detectors may know: `known`, the very source they are tested on, as in the paper;
            `leave_one_out`, all sources but the tested one; `cross`, each source in turn, and tested on every one.
        metrics: conventions whose arithmetic is reported too, under `<convention>/<metric>`, to compare with their
            tables.
        false_positive_rate: share of normal images that a detector without known anomalies may flag: its threshold is a
            split-conformal quantile of the scores of the normal `val` images.
        guard: name of the detector that guards new images, see `score`; by default the best on `val` of those that need
            no anomalies. One that needs them is fitted on all anomaly sources together.
        resamples: bootstrap resamples for the 95 % interval of the AUROC.
        seed: of the detectors and the bootstrap; the splits have theirs in `data.split.seed`.
        on_bad_image: what to do with an image for which the network, or a gradient, is NaN or infinite: `refuse` names
            it and ends the run; `skip` names it and leaves it out, with its attacked versions where they are so too.
    """

    label_designs: list[LabelDesign] = field(default_factory=lambda: [AllOnes()])
    mlp: MLPSettings = field(default_factory=MLPSettings)
    detectors: list[Detector] = field(default_factory=list)
    preset: Preset = "paper"
    protocol: Protocol = "known"
    metrics: list[Literal["lee2018", "odin", "openood", "energy"]] = field(default_factory=list)
    false_positive_rate: OpenUnitInterval = 0.05
    guard: str | None = None
    resamples: PositiveInt = 1000
    seed: Seed = 0
    on_bad_image: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        if not self.label_designs:
            raise Refusal("`detection.label_designs` should name at least one label design. Got none. Try [AllOnes].")
        designs = [design.name for design in self.label_designs]
        if len(set(designs)) < len(designs):
            raise Refusal(
                f"`detection.label_designs` should have different names. Got {designs}. Remove or rename one."
            )

    def probes(self, anomalies: bool = True) -> list[Probe]:
        """The probes of all detectors, each once, and logits, which cost nothing and give the predictions."""
        probes = [probe for detector in self.detectors_for(anomalies) for probe in detector.probes]
        found: dict[str, Probe] = {}
        for probe in [*probes, LogitsProbe()]:
            if digest(found.setdefault(probe.name, probe)) != digest(probe):
                raise Refusal(
                    "`detection.detectors` should agree on what they read under one name. "
                    f"Got two settings of `{probe.name}`. Give those detectors the same settings, or run one of them alone."
                )
        return list(found.values())

    def detectors_for(self, anomalies: bool = True) -> list[Detector]:
        """The detectors that are fitted: all of them, or where no anomalies are known those that need none."""
        return self.build() if anomalies else self.without_anomalies(known=False)

    def without_anomalies(self, known: bool) -> list[Detector]:
        """The detectors that need no anomalies.

        Where none is configured: if anomalies are known, some that read what is read anyway; if not, the preset for
        that case and two detectors to compare it with.
        """
        named = [detector for detector in self.build() if not detector.needs_anomalies]
        cheap: list[Detector] = [GradientGaussian(), GradientKNN(), Baseline(), Energy()]
        usual = cheap if known else [*no_anomalies(), GradientKNN(), Energy()]
        return named or [detector.with_label_designs(self.label_designs) for detector in usual]

    def outliers(self, anomalies: bool = True) -> tuple[dict[str, SyntheticOutlier], list[str]]:
        """The detectors' synthetic outliers by name, and the probes read of them; refuses unequal ones of one name."""
        found: dict[str, SyntheticOutlier] = {}
        needy = [detector for detector in self.detectors_for(anomalies) if detector.needed_outliers]
        for outlier in (outlier for detector in needy for outlier in detector.needed_outliers):
            if digest(found.setdefault(f"{SYNTHETIC}{outlier.name}", outlier)) != digest(outlier):
                raise Refusal(
                    "`detection.detectors` should agree on synthetic outliers of one name. "
                    f"Got two settings of `{outlier.name}`. Give those detectors the same, or run one of them alone."
                )
        return found, [probe.name for detector in needy for probe in detector.probes]

    def guarding(self, anomalies: bool = True) -> list[Detector]:
        """The detectors among which the guard's is chosen; refuses a `guard` that names none of them."""
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
            alone = [MLP(all_ones, replace(self.mlp, inputs=["norms"]), name="mlp_all_ones")]
        inputs = self.mlp.inputs
        more = [MLP(self.label_designs, self.mlp, "_".join(["mlp", *inputs]))] if inputs != ["norms"] else []
        paper = MLP(self.label_designs, replace(self.mlp, inputs=["norms"]))
        presets = {"paper": [], "no_anomalies": no_anomalies(), "one_pass": one_pass()}
        others = [one.with_label_designs(self.label_designs) for one in [*presets[self.preset], *self.detectors]]
        detectors: list[Detector] = [*alone, paper, *more, *others]
        _refuse_names([detector.name for detector in detectors])
        return detectors

    def check_train_images(self, in_train: int, anomalies: bool = True) -> None:
        """Refuse too few normal images in `train` for a detector, such as one that divides them into folds."""
        for detector in self.detectors_for(anomalies):
            if in_train < detector.fewest:
                raise Refusal(
                    f"`data.normal` should have at least {detector.fewest} images in `train` for `{detector.name}`. "
                    f"Got {in_train}. Add images, or name other detectors with --detection.detectors."
                )

    def check_normal_images(self, in_val: int, anomalies: bool = True) -> None:
        """Refuse too few normal images in `val` for the false-positive rate where a threshold depends on it."""
        if not all(detector.needs_anomalies for detector in self.detectors_for(anomalies)):
            check_calibration(in_val, self.false_positive_rate)
        if self.guard is not None:
            (detector,) = self.guarding(anomalies)
            check_calibration((in_val + 1) // (2 if detector.needs_anomalies else 1), self.false_positive_rate)


def _refuse_names(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise Refusal(f"`detection.detectors` should have different names. Got {names}. Remove one.")
    for name in names:
        if name in ("", ".", "..") or "/" in name or not name.isprintable() or len(name) > _LONGEST:
            raise Refusal(
                f"`detection.detectors` should have names that can be files', without a slash, of at most {_LONGEST} letters. "
                f"Got `name = {name[:_LONGEST]!r}`. Rename that detector."
            )
