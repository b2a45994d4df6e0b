"""What is looked at before a verb's first step, in one pass: a Trainer, settings, images and a network that do not fit."""

import sys

import lightning.pytorch as pl

from lightning_gradood.core import Refusal, as_float, say
from lightning_gradood.data import ImageDataModule
from lightning_gradood.evaluation import DetectionSettings, refuse_empty_splits, refuse_single, trials_of
from lightning_gradood.extraction import refuse_unfit_trainer
from lightning_gradood.networks import TwoLogits
from lightning_gradood.records import NORMAL
from lightning_gradood.tasks import ClassificationTask, check_network


def preflight(
    verb: str, trainer: pl.Trainer, task: ClassificationTask, data: ImageDataModule, settings: DetectionSettings | None
) -> DetectionSettings | None:
    """Refuse what a verb would fail on later; `fit`, `extract` and `detect` have stage two's `settings`.

    Returns these, on the first process as `DetectionSettings.for_network` gives them.

    Two images pass through network and probes: training images where these are the verb's. The first process alone
    opens sources, as it may have to download them; the others wait for it in `prepare_data`.
    """
    sources, detecting = data.sources, settings if verb in ("fit", "detect") else None
    if settings is not None:
        refuse_unfit_trainer(trainer)
        sources.skip_unreadable = settings.on_bad_image == "skip"
        sources.try_built_in_anomalies()
        sources.take(settings.sizes(sources.knows_anomalies))
    if detecting is not None:
        detecting.guarding(sources.knows_anomalies)
        refuse_single(sources.anomaly_names, detecting.protocol, detecting.validation)
    if verb == "fit":
        task.try_optimizer(trainer)
        if detecting is not None and trainer.checkpoint_callback is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise Refusal(
                "`trainer.enable_checkpointing` should be on, as stage two probes the best checkpoint. Got false. "
                "Leave it on, or stop after the classifier with --detection null."
            )
    if not trainer.is_global_zero:
        return settings
    source = sources.train if verb in ("fit", "validate") else sources.normal
    images = as_float(source.images(range(min(2, len(source))))).to(task.device)
    classes = None if sources.output_names else sources.num_classes  # else `fit_outputs` compares them
    outputs = check_network(task.network, images, classes)
    for note in sources.fit_outputs(outputs):
        sys.stdout.write(f"{note}\n")
    if settings is not None:
        network = TwoLogits(task.network) if outputs == 1 else task.network
        settings = settings.for_network(network, images, sources.has_train, sources.knows_anomalies)
        if detecting is not None:
            known, counts = sources.knows_anomalies, sources.manifest.counts
            if (
                settings.zero_shot
                and known
                and (tuned := [one.name for one in settings.build() if one.needs_anomalies])
            ):
                sys.stdout.write(
                    f"Left out, as no `detection.validation` is named and they need anomalies: {', '.join(tuned)}.\n"
                )
            sources.read_training(settings.training_probes(known), settings.limit_per_class)
            training = len(sources.fitting) if sources.training_probes else 0
            detectors = settings.detectors_for(known)
            trials = trials_of(detectors, sources.anomaly_names, settings.protocol, settings.validation)
            refuse_empty_splits(counts, trials, settings.protocol)
            if taken := sources.left_out:
                say(f"Budget `{settings.budget}`: {taken}; all with --detection.budget thorough.")
            settings.check_images(counts[NORMAL]["train"], counts[NORMAL]["val"], known, training)
    return settings
