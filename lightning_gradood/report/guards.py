"""A run's guard: choosing and saving it, its description on disk, and the text shown to the user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lightning_gradood.core import Refusal, Unwritable, encode
from lightning_gradood.data import BUILT_IN, ImageDataModule
from lightning_gradood.detectors import Detector
from lightning_gradood.evaluation import Calibrated, DetectionDatasets, DetectionSettings, Failure, best_calibrated
from lightning_gradood.gradients import parameter_names
from lightning_gradood.guard import Description, Recipe, mean_readings, save_guard
from lightning_gradood.networks import TwoLogits
from lightning_gradood.probes import GradientProbe
from lightning_gradood.records import NORMAL, Records
from lightning_gradood.report.tables import percent, text_table
from lightning_gradood.tasks import ClassificationTask


@dataclass(frozen=True)
class Workplace:
    """What a guard is made from; without a `recipe` to build network and transform again, none can be saved."""

    experiment: str
    model: ClassificationTask
    datamodule: ImageDataModule
    cache_dir: str
    recipe: Recipe | None


def without_anomalies_sentence(detectors: Sequence[Detector]) -> str:
    """Name the detectors that are fitted where no anomalies are known, and what they are tested on."""
    return (
        f"No anomalies are named: {', '.join(one.name for one in detectors)} are fitted on normal images alone, and detectors "
        f"that need anomalies are left out. The sources {BUILT_IN}* are built-in probes, made from the normal images; what "
        "they say of anomalies of yours is little."
    )


@dataclass(frozen=True)
class GuardSummary:
    """What is shown of a run's guard.

    Args:
        sentence: which detector it runs and what it flags, or why there is none.
        heading: of the column of sources.
        metrics: source to numbers, see `evaluation.Calibrated`; empty where there is no guard.
        command: scores images with it; empty where there is none.
    """

    sentence: str
    heading: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    command: str = ""

    @property
    def text(self) -> str:
        """The summary as lines for a terminal."""
        if not self.metrics:
            return self.sentence
        heads, rows = self.table
        return f"Guard: {self.sentence}\n\n{text_table(heads, rows)}\n\nIt scores any image:\n  {self.command}"

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows: AUROC and share flagged of each source on `test`, and the share of normal images flagged."""
        rows = [
            [name, percent(one["test/auroc"]) if "test/auroc" in one else "-", f"{100 * one['test/flagged']:.1f}"]
            for name, one in self.metrics.items()
        ]
        return [self.heading, "AUROC", "flagged, %"], rows


def guard_summary(folder: Path, chosen: Calibrated, place: Workplace) -> GuardSummary:
    """Summarise a saved guard and the command that runs it."""
    normal = chosen.metrics[NORMAL]
    low, high = 100 * normal["low"], 100 * normal["high"]
    packages = place.recipe.packages if place.recipe else []
    trust = "".join(f" --trust {name}" for name in packages)
    known = place.datamodule.sources.knows_anomalies
    tried = "anomalies" if known else "built-in probes"
    fitted = "normal images alone" if chosen.trained_on == NORMAL else chosen.trained_on
    sentence = (
        f"`{chosen.detector.name}`, fitted on {fitted} (mean AUROC {100 * chosen.val_auroc:.1f} % on the {tried} of "
        f"`val`). It may flag {100 * chosen.false_positive_rate:.3g} % of normal images; of {normal['test/images']:.0f} in "
        f"`test` it flags {100 * normal['test/flagged']:.1f} % [{low:.1f}, {high:.1f}]."
    )
    heading = "images" if known else "images (built-in probes)"
    command = f"python -m lightning_gradood score --guard {folder}{trust} FOLDER"
    return GuardSummary(sentence, heading, chosen.metrics, command)


def guard_description(folder: Path, place: Workplace, chosen: Calibrated, normal: Records) -> Description:
    """The description that is saved as `guard.json`."""
    data, model, recipe = place.datamodule, place.model, place.recipe
    if recipe is None:
        raise RuntimeError("choose_guard comes first.")
    normalize = model.normalize
    source = data.sources.normal
    return Description(
        experiment=place.experiment,
        network=recipe.network,
        normalize=None if normalize is None else {"mean": list(normalize.mean), "std": list(normalize.std)},
        transform=recipe.transform,
        picture=source.picture,
        image_shape=list(source.shape),
        classes=list(data.sources.classes),
        parameters=parameter_names(model.network),
        detector=encode(chosen.detector),
        detector_name=chosen.detector.name,
        label_designs=[one.label_design.name for one in chosen.detector.probes if isinstance(one, GradientProbe)],
        trained_on=chosen.trained_on,
        counts=chosen.counts,
        calibration=chosen.calibration.tolist(),
        baseline=mean_readings(normal.where(split="train"), chosen.detector.probes),
        false_positive_rate=chosen.false_positive_rate,
        threshold=chosen.threshold,
        metrics=chosen.metrics,
        batch_size=data.probe_batch_size,
        built_in=not data.sources.knows_anomalies,
        one_logit=isinstance(model.network, TwoLogits),
    )


def no_guard(refusal: Refusal, folder: Path) -> GuardSummary:
    """Summary for a refused guard; it mentions one that an earlier run has left in the folder."""
    left = f" The guard in {folder} is that of an earlier run." if folder.exists() else ""
    return GuardSummary(f"No guard is saved: {refusal}{left}")


def choose_guard(
    place: Workplace, settings: DetectionSettings, datasets: DetectionDatasets, failures: Sequence[Failure] = ()
) -> Calibrated:
    """Choose, fit and calibrate the guard's detector among those that have not failed.

    Raises:
        Refusal: there is no recipe, `val` has too few normal images for the false-positive rate, or all detectors have
            failed.
    """
    if place.recipe is None:
        raise Refusal("a network and a transform are named by class path on the command line, or given as `recipe`.")
    return best_calibrated(
        settings.guarding(place.datamodule.sources.knows_anomalies),
        datasets,
        place.datamodule.sources.anomaly_names,
        seed=settings.seed,
        false_positive_rate=settings.false_positive_rate,
        failures=failures,
    )


def keep_guard(
    folder: Path,
    place: Workplace,
    chosen: Calibrated,
    normal: Records,
    states: Mapping[str, Mapping[str, Tensor]],
) -> GuardSummary:
    """Save a guard with the `states` that its probes have learnt, and return its summary."""
    source = place.datamodule.sources.normal
    rows = {name: row for row, name in enumerate(source.ids)}
    held = normal.where(split="val")
    few = Records(held.table.slice(0, place.datamodule.probe_batch_size))
    images = source.images([rows[name] for name in few.ids])
    try:
        about = guard_description(folder, place, chosen, normal)
        save_guard(folder, about, place.model.network, chosen.detector, states, held, images)
    except Unwritable:
        raise
    except Refusal as refusal:
        return no_guard(refusal, folder)
    return guard_summary(folder, chosen, place)
