"""The settings of detection: what `--detection.*` sets."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from math import ceil
from typing import Literal, TypeVar

from torch import Tensor, nn

from lightning_gradood.core import NotFinite, OpenUnitInterval, PositiveInt, Refusal, Seed, digest, say
from lightning_gradood.data import Budget
from lightning_gradood.detectors import (
    ASH,
    DICE,
    FDBD,
    GEN,
    GROOD,
    KNN,
    MLP,
    NAC,
    NCI,
    RMDS,
    RMDSPP,
    SCALE,
    SHE,
    AdaSCALE,
    Baseline,
    Combined,
    Consistency,
    Detector,
    Energy,
    FixedDetector,
    GradientGaussian,
    GradientKNN,
    GradNorm,
    GradPCA,
    KLMatching,
    MahalanobisPP,
    MahalanobisPPPaper,
    MaxLogit,
    NNGuide,
    ReAct,
    SyntheticOutliers,
    ViewsSoftmax,
    ViM,
    WeightedParts,
)
from lightning_gradood.gradients import AllOnes, LabelDesign
from lightning_gradood.metrics import check_calibration
from lightning_gradood.perturbations import WITH_GRADIENT, WITHOUT_NETWORK, SyntheticOutlier
from lightning_gradood.probes import LogitsProbe, Probe, linear_head, try_probes
from lightning_gradood.records import SYNTHETIC
from lightning_gradood.tasks import MLPSettings

Protocol = Literal["known", "leave_one_out", "cross", "openood"]
Named = TypeVar("Named", Probe, SyntheticOutlier)
_LONGEST = 100  # letters of a detector's name


_AGAINST = partial(SyntheticOutliers, model="deviations", strength=0.01)
_NATURAL = _AGAINST(outliers=[kind() for kind in WITHOUT_NETWORK], name="natural_outliers")
_GRADIENT = _AGAINST(outliers=[kind() for kind in WITH_GRADIENT], name="gradient_outliers")
_PARTS = [Baseline(), ViewsSoftmax(), MahalanobisPP(), Consistency(), SyntheticOutliers(), _NATURAL, _GRADIENT]
_WEIGHTED_PARTS = WeightedParts(_PARTS)
_ON_SYNTHETIC = SyntheticOutliers(["norms"], model="mlp", name="mlp_on_synthetic")  # the paper's MLP
_EVERY = SyntheticOutliers(["features", "confidence", "norms"])
_MEMBERS = [Baseline(), MahalanobisPP(), _EVERY, _ON_SYNTHETIC, GradientGaussian()]
_PRESETS: dict[str, list[Detector]] = {
    "paper": [],
    "no_anomalies": [_WEIGHTED_PARTS],
    "one_pass": [Combined(_MEMBERS, rule="squares", name="one_pass"), _ON_SYNTHETIC],
    "post_hoc": [
        Baseline(), MaxLogit(), GEN(), Energy(), GradNorm(), KLMatching(),
        ReAct(), ASH(), SCALE(), AdaSCALE(), DICE(), SHE(), KNN(),
        MahalanobisPPPaper(), RMDS(), RMDSPP(), ViM(), FDBD(), NNGuide(), NCI(),
        NAC(), GROOD(), GradPCA(),
    ],
}  # fmt: skip


@dataclass
class DetectionSettings:
    """Settings of detection: label designs, detectors, protocol, metrics, seeds.

    Args:
        label_designs: confounding labels, e.g. [AllOnes]; several together make one longer representation, and the
            paper's all-ones label, if it is one of several, is then reported alone too, as `mlp_all_ones`.
        mlp: the paper's detector, a 2-layer MLP.
        detectors: further detectors by class path. Those that read gradients and name no label designs read the
            experiment's.
        preset: `paper`, the MLP alone; `no_anomalies`, also `weighted_parts`, which needs no anomalies, and reads confidence,
            features and views of the image in three forward passes; `one_pass`, also two that need none and read one
            forward pass and its gradients, the second of them the paper's MLP trained against synthetic outliers; `post_hoc`,
            also the field's methods that are fitted on normal images alone, without those that do not apply to the
            network. A preset and `detectors` add up.
        protocol: what the detectors may know: `known`, the very source they are tested on, as in the paper;
            `leave_one_out`, all sources but the tested one; `cross`, each source in turn, and tested on every one;
            `openood`, the source `validation` alone, and tested on all others.
        validation: name of the source that `openood` lets be known; without it, detectors that need anomalies are left out.
        fit_on: images that detectors which know neither anomalies nor synthetic outliers are fitted on: `normal`, those of
            `data.normal` in `train`, or the classifier's own, `data.train`. Thresholds come from normal `val` images.
        limit_per_class: the most training images of each class that `fit_on = train` takes, at random; by default all.
        metrics: conventions whose arithmetic is reported too, under `<convention>/<metric>`, to compare with their
            tables.
        leaderboard: the benchmark of OpenOOD whose published numbers stand beside those of the groups `near` and `far`.
        budget: how many images are read, see `sizes`: `quick`, few, for a first guard; `standard`, without known anomalies
            up to 1,000 of each split, else all; `thorough`, all. What one has read the others use again.
        false_positive_rate: share of normal images that a detector without known anomalies may flag: its threshold is a
            split-conformal quantile of the scores of the normal `val` images.
        guard: name of the detector that guards new images, see `score`; by default the best on `val` of those that need
            no anomalies. One that needs them is fitted on all anomaly sources together.
        resamples: bootstrap resamples for the 95 % interval of the AUROC.
        seed: of the detectors and the bootstrap; the splits have theirs in `data.split.seed`.
        on_bad_image: what to do with an image that cannot be read, or for which the network, or a gradient, is NaN or
            infinite: `refuse` names it and ends the run; `skip` names it and leaves it out, with its attacked versions
            where they are so too.
    """

    label_designs: list[LabelDesign] = field(default_factory=lambda: [AllOnes()])
    mlp: MLPSettings = field(default_factory=MLPSettings)
    detectors: list[Detector] = field(default_factory=list)
    preset: Literal["paper", "no_anomalies", "one_pass", "post_hoc"] = "paper"
    protocol: Protocol = "known"
    validation: str | None = None
    fit_on: Literal["normal", "train"] = "normal"
    limit_per_class: PositiveInt | None = None
    metrics: list[Literal["lee2018", "odin", "openood", "energy"]] = field(default_factory=list)
    leaderboard: Literal["cifar10", "cifar100", "imagenet200", "imagenet"] | None = None
    budget: Literal["quick", "standard", "thorough"] = "standard"
    false_positive_rate: OpenUnitInterval = 0.05
    guard: str | None = None
    resamples: PositiveInt = 1000
    seed: Seed = 0
    on_bad_image: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        designs = [design.name for design in self.label_designs]
        if not designs or len(set(designs)) < len(designs):
            raise Refusal(
                f"`detection.label_designs` should be one or more with different names. Got {designs}. Try [AllOnes]."
            )
        if self.validation is not None and self.protocol != "openood":
            raise Refusal(
                f"`detection.validation` should be named for `detection.protocol = openood` alone. Got `detection.protocol = "
                f"{self.protocol}`. Use --detection.protocol openood, or leave `validation` out."
            )

    def build(self) -> list[Detector]:
        """All detectors, the MLPs first."""
        designs, inputs = self.label_designs, self.mlp.inputs
        paper = MLP(designs, replace(self.mlp, inputs=["norms"]))
        mlps = [replace(paper, label_designs=[AllOnes()], name="mlp_all_ones"), paper]
        if len(designs) == 1 or AllOnes() not in designs:
            mlps = [paper]
        if inputs != ["norms"]:
            mlps.append(MLP(designs, self.mlp, "_".join(["mlp", *inputs])))
        found = [*mlps, *(one.with_label_designs(designs) for one in [*_PRESETS[self.preset], *self.detectors])]
        for one in (self.mlp, *found):
            _refuse_empty(one)
        _refuse_names([detector.name for detector in found])
        return found

    def for_network(
        self, network: nn.Module, images: Tensor, has_train: bool = True, anomalies: bool = True
    ) -> "DetectionSettings":
        """These settings with the members of `post_hoc` that apply to a network; lines say which others do not, and why.

        Each probe is tried once.

        Args:
            network: pixels in, logits out, with its weights; left as it was found.
            images: two or so, on which every detector's probes are tried, pixels in [0, 1], [N, C, H, W].
            has_train: whether the classifier's training images are given, with which some probes are prepared.
            anomalies: whether anomalies are known, see `probes`.

        Raises:
            Refusal: if one of `detectors`, or another probe, does not apply.
        """
        several = _PRESETS[self.preset] if self.preset == "post_hoc" else []
        needed = any(one.needs_head for one in [*self.detectors, *several])
        headless = _refusal(partial(linear_head, network, images)) if needed else ""
        tried = dict[str, str]()  # digest of a probe to what it refuses

        def misfit(one: Detector) -> str:
            if one.needs_head and headless:
                return headless
            for probe in one.probes:
                if (key := digest(probe)) not in tried:
                    tried[key] = _refusal(partial(try_probes, [probe], network, images))
            return next(filter(None, (tried[digest(probe)] for probe in one.probes)), "")

        for one in self.detectors:
            if reason := misfit(one):
                raise Refusal(f"`{one.name}` of --detection.detectors cannot be fitted to this network. {reason}")
        fitting, left_out = list[Detector](), dict[str, list[str]]()
        for one in several:
            reason = misfit(one)
            if not has_train and any(probe.needs_preparation for probe in one.probes):
                reason = "They learn from the classifier's training images. Give these as `data.train`."
            if reason:
                left_out.setdefault(reason, []).append(one.name)
            else:
                fitting.append(one)
        for reason, names in left_out.items():
            say(f"Left out of --detection.preset {self.preset}: {', '.join(names)}. {reason}")
        kept = replace(self, preset="paper", detectors=[*fitting, *self.detectors]) if several else self
        try_probes([one for one in kept.probes(anomalies) if digest(one) not in tried], network, images)
        return kept

    def detectors_for(self, anomalies: bool = True) -> list[Detector]:
        """The detectors that are fitted: all of them, or where no anomalies may be known those that need none."""
        return self.build() if anomalies and not self.zero_shot else self.without_anomalies(anomalies)

    @property
    def zero_shot(self) -> bool:
        """Whether no anomaly may be known to any detector, though sources of them are tested."""
        return self.protocol == "openood" and self.validation is None

    def learns_from_training(self, detector: Detector) -> bool:
        """Whether a detector is fitted on the classifier's training images."""
        return self.fit_on == "train" and detector.learns_from_normal

    def training_probes(self, anomalies: bool = True) -> list[str]:
        """Names of the probes that are read of training images; none where no detector is fitted on them."""
        learning = [one for one in self.detectors_for(anomalies) if self.learns_from_training(one)]
        return sorted({probe.name for one in learning for probe in one.probes})

    def without_anomalies(self, known: bool) -> list[Detector]:
        """The detectors that need no anomalies.

        Where none is configured: if anomalies are known, some that read what is read anyway; if not, the preset for
        that case and two detectors to compare it with.
        """
        named = [detector for detector in self.build() if not detector.needs_anomalies]
        cheap: list[Detector] = [GradientGaussian(), GradientKNN(), Baseline(), Energy()]
        compared = [Energy()] if self.budget == "quick" else [GradientKNN(), Energy()]  # gradients cost most
        usual = cheap if known else [_WEIGHTED_PARTS, *compared]
        return named or [detector.with_label_designs(self.label_designs) for detector in usual]

    def probes(self, anomalies: bool = True) -> list[Probe]:
        """The probes of all detectors, each once, and logits, which cost nothing and give the predictions."""
        probes = [probe for detector in self.detectors_for(anomalies) for probe in detector.probes]
        return list(_by_name([*probes, LogitsProbe()]).values())

    def sizes(self, anomalies: bool = True) -> Budget:
        """The most images of `train`, `val` and `test`; as many calibrate as the false-positive rate needs.

        `quick` takes 400, 200 and 100 of each source, and of what each attack makes 100 of each split, or, where no
        anomalies are known, 20 of `val` and 30 of `test`; and synthetic outliers of 40 images.
        """
        fit, calibrate = (
            max((one.fewest for one in self.detectors_for(anomalies)), default=0),
            10 / self.false_positive_rate,
        )
        if self.budget == "quick":
            made = (100, 100, 100) if anomalies else (0, 20, 30)
            return Budget((max(400, fit), max(200, ceil(calibrate)), 100), made, outliers=40)
        if self.budget == "thorough" or anomalies:
            return Budget()
        return Budget((max(1000, fit), max(1000, ceil(calibrate)), 1000), (0, 400, 400))

    def outliers(self, anomalies: bool = True) -> tuple[dict[str, SyntheticOutlier], list[str]]:
        """The detectors' synthetic outliers by the names of their sources, and the probes that are read of them."""
        needy = [detector for detector in self.detectors_for(anomalies) if detector.needed_outliers]
        found = _by_name(outlier for detector in needy for outlier in detector.needed_outliers)
        probes = [probe.name for detector in needy for probe in detector.probes]
        return {f"{SYNTHETIC}{name}": outlier for name, outlier in found.items()}, probes

    def guarding(self, anomalies: bool = True) -> list[Detector]:
        """The detectors among which the guard's is chosen; refuses a `guard` that names none of them."""
        candidates = self.without_anomalies(anomalies)
        if self.guard is None:
            return candidates
        known = {one.name: one for one in [*candidates, *self.detectors_for(anomalies)]}
        if self.guard not in known:
            raise Refusal(
                f"`detection.guard` should name a detector of this experiment. Got `detection.guard = {self.guard}`. "
                f"Choose among {', '.join(known)}."
            )
        return [known[self.guard]]

    def check_images(self, in_train: int, in_val: int, anomalies: bool = True, training: int = 0) -> None:
        """Refuse too few normal or `training` images to fit a detector on, or in `val` for the false-positive rate."""
        detectors = self.detectors_for(anomalies)
        for detector in detectors:
            own = self.learns_from_training(detector)
            number, flag = (training, "data.train") if own else (in_train, "data.normal")
            if number < (0 if isinstance(detector, FixedDetector) else detector.fewest):
                raise Refusal(
                    f"`{flag}` should have at least {detector.fewest} images {'' if own else 'in `train` '}for "
                    f"`{detector.name}`. Got {number}. Add images, or name other detectors with --detection.detectors."
                )
        if not all(detector.needs_anomalies for detector in detectors):
            check_calibration(in_val, self.false_positive_rate)
        if self.guard is not None:
            (detector,) = self.guarding(anomalies)
            check_calibration((in_val + 1) // (2 if detector.needs_anomalies else 1), self.false_positive_rate)


def _refusal(call: Callable[[], object]) -> str:
    """What a call refuses, or nothing."""
    try:
        with suppress(NotFinite):  # handled where all images are read
            call()
    except Refusal as refusal:
        return str(refusal)
    return ""


def _by_name(things: Iterable[Named]) -> dict[str, Named]:
    """Probes or synthetic outliers, each once; a Refusal if two of one name have different settings."""
    found: dict[str, Named] = {}
    for one in things:
        if digest(found.setdefault(one.name, one)) != digest(one):
            raise Refusal(
                "`detection.detectors` should agree on what they read and on outliers of one name. Got two settings of "
                f"`{one.name}`. Give those detectors the same settings, or run one of them alone."
            )
    return found


def _refuse_empty(settings: object) -> None:
    """Refuse a grid or another list of settings with nothing in it, which by default has something."""
    for one in fields(settings) if is_dataclass(settings) else ():
        usual = one.default_factory() if callable(one.default_factory) else one.default
        if isinstance(usual, list | tuple) and usual and not getattr(settings, one.name):
            raise Refusal(
                f"`{one.name}` of {type(settings).__name__} should have at least one entry. Got none. "
                f"Leave it out for {list(usual)}."
            )


def _refuse_names(names: Sequence[str]) -> None:
    for name in names:
        if (
            names.count(name) > 1
            or name in ("", ".", "..")
            or "/" in name
            or not name.isprintable()
            or len(name) > _LONGEST
        ):
            raise Refusal(
                "`detection.detectors` should have different names that can be files', without a slash, of at most "
                f"{_LONGEST} letters. Got `name = {name[:_LONGEST]!r}`. Rename or remove that detector."
            )
