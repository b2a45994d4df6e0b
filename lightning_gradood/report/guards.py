"""A run's guard: chosen, saved, and summarised for whoever tells of the run."""

from collections.abc import Sequence
from pathlib import Path

from lightning_gradood.core import Refusal, Unwritable
from lightning_gradood.data import BUILT_IN
from lightning_gradood.detectors import Detector, SavedDetector
from lightning_gradood.evaluation import Calibrated, DetectionDatasets, DetectionSettings, Failure, best_calibrated
from lightning_gradood.gradients import parameter_names
from lightning_gradood.guard import Description, mean_readings, save_guard
from lightning_gradood.networks import TwoLogits
from lightning_gradood.probes import GradientProbe, Probe
from lightning_gradood.records import NORMAL, Records
from lightning_gradood.report.run import GuardSummary
from lightning_gradood.report.run_writer import Workplace


def without_anomalies_sentence(detectors: Sequence[Detector]) -> str:
    """Name the detectors that are fitted where no anomalies are known, and what they are tested on."""
    return (
        f"No anomalies are named: {', '.join(one.name for one in detectors)} are fitted on normal images alone, and detectors "
        f"that need anomalies are left out. The sources {BUILT_IN}* are built-in probes, made from the normal images; what "
        "they say of anomalies of yours is little."
    )


def guard_summary(chosen: Calibrated, place: Workplace) -> GuardSummary:
    """Summarise a saved guard."""
    normal = chosen.metrics[NORMAL]
    low, high = 100 * normal["low"], 100 * normal["high"]
    known = place.datamodule.sources.knows_anomalies
    tried = "anomalies" if known else "built-in probes"
    fitted = "normal images alone" if chosen.trained_on == NORMAL else chosen.trained_on
    return GuardSummary(
        sentence=f"`{chosen.detector.name}`, fitted on {fitted} (mean AUROC {100 * chosen.val_auroc:.1f} % on the {tried} "
        f"of `val`). It may flag {100 * chosen.false_positive_rate:.3g} % of normal images; of {normal['test/images']:.0f} "
        f"in `test` it flags {100 * normal['test/flagged']:.1f} % [{low:.1f}, {high:.1f}].",
        heading="images" if known else "images (built-in probes)",
        metrics=chosen.metrics,
        detector=chosen.detector.name,
        false_positive_rate=chosen.false_positive_rate,
        packages=place.recipe.packages if place.recipe else [],
    )


def guard_description(place: Workplace, chosen: Calibrated, normal: Records) -> Description:
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
        settings,
        failures,
    )


def keep_guard(
    folder: Path,
    place: Workplace,
    chosen: Calibrated,
    normal: Records,
    probes: Sequence[Probe],
) -> GuardSummary:
    """Save a guard with its probes as they read, and return its summary."""
    source = place.datamodule.sources.normal
    rows = {name: row for row, name in enumerate(source.ids)}
    held = normal.where(split="val")
    few = Records(held.table.slice(0, place.datamodule.probe_batch_size))
    images = source.images([rows[name] for name in few.ids])
    try:
        about = guard_description(place, chosen, normal)
        trained_on = chosen.trained_on
        saved = SavedDetector.of(chosen.detector, chosen.fitted, chosen.threshold, held, trained_on=trained_on)
        save_guard(folder, about, place.model.network, saved, probes, held, images)
    except Unwritable:
        raise
    except Refusal as refusal:
        return no_guard(refusal, folder)
    return guard_summary(chosen, place)
