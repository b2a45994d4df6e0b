"""Lightning's Trainer with two more verbs: `extract` probes every source, `detect` also fits and reports detectors."""

import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning.pytorch as pl

from lightning_gradood.core import LOG, Refusal, as_float, give_back_memory, progress, refused_as, stage
from lightning_gradood.data import BUILT_IN, ImageDataModule
from lightning_gradood.detectors import SavedDetector, save_detector
from lightning_gradood.evaluation import (
    Calibrated,
    DetectionDatasets,
    DetectionSettings,
    Failure,
    Fits,
    Outcome,
    attempt_trial,
    best_calibrated,
    fit_key,
    fit_side_by_side,
    gather,
    notes_on,
    remarks_on,
    trials_of,
)
from lightning_gradood.extraction import CacheEntry, ProbeCallback, ids_of, leave_out_bad, prepare, read_records
from lightning_gradood.guard import Guard, Recipe
from lightning_gradood.preflight import preflight
from lightning_gradood.probes import PixelProbe, linear_head
from lightning_gradood.records import NORMAL, RecordCache
from lightning_gradood.report import (
    GuardSummary,
    Workplace,
    alert,
    keep_guard,
    tell,
    write_guard_summary,
    write_run,
)
from lightning_gradood.tasks import ClassificationTask

DEFAULT_CACHE = "runs/.records"


class Trainer(pl.Trainer):
    """Lightning's Trainer; `default_root_dir` is the run folder, which `detect` fills.

    Attributes:
        experiment: name of the experiment in reports and guards; by default that of the folder above the run's.
        failures: detectors that `detect` could not fit or test, each with the reason.
        guard: what `detect` has chosen and calibrated, on the first process.
        probe_costs: probe to its time and memory an image, where a callback has measured them.
    """

    experiment: str | None = None
    failures: Sequence[Failure] = ()
    guard: Guard | None = None
    probe_costs: Mapping[str, Mapping[str, float]] = {}
    _looked_at: tuple[object, ...] = ()
    _found: DetectionSettings | None = None

    def extract(
        self,
        model: ClassificationTask,
        datamodule: ImageDataModule,
        ckpt_path: str | None = None,
        settings: DetectionSettings | None = None,
        cache_dir: str = DEFAULT_CACHE,
    ) -> list[CacheEntry]:
        """Probe every source on all processes, keep the records, and return their cache entries on every process.

        Args:
            model: the task that holds the classifier.
            datamodule: sources and splits.
            ckpt_path: a checkpoint, state dict or safetensors file, or `best` for the best of this Trainer's `fit`; by
                default the network as it is, with the initial weights that the task names.
            settings: label designs and detectors; they decide what is read.
            cache_dir: where records are kept and found again.
        """
        settings = settings or DetectionSettings()
        self.load(model, ckpt_path)
        settings = self.preflight("extract", model, datamodule, settings) or settings
        return self._extract(model, datamodule, settings, RecordCache(cache_dir))

    def _extract(
        self, model: ClassificationTask, datamodule: ImageDataModule, settings: DetectionSettings, cache: RecordCache
    ) -> list[CacheEntry]:
        datamodule.sources.make_synthetic(*settings.outliers(datamodule.sources.knows_anomalies))
        training = settings.training_probes(datamodule.sources.knows_anomalies)
        datamodule.sources.read_training(training, settings.limit_per_class)
        probes = settings.probes(datamodule.sources.knows_anomalies)
        pixels = [PixelProbe(datamodule.keep_pixels)] if datamodule.keep_pixels else []
        reading = ProbeCallback([*probes, *pixels], cache, settings.on_bad_image, only_missing=True)
        callbacks: list[pl.Callback] = self.callbacks  # type: ignore[attr-defined]
        callbacks.append(reading)
        try:
            with stage("probing", self), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Total length of .* across ranks is zero")  # every record is there
                self.predict(model, datamodule=datamodule, return_predictions=False, weights_only=True)
        finally:
            callbacks.remove(reading)
        model.network = reading.reader.network  # with a second logit, where it had one
        return reading.entries

    def detect(
        self,
        model: ClassificationTask,
        datamodule: ImageDataModule,
        ckpt_path: str | None = None,
        settings: DetectionSettings | None = None,
        cache_dir: str = DEFAULT_CACHE,
        recipe: Recipe | None = None,
    ) -> list[Outcome]:
        """Probe what is missing, fit every detector on every source, report.

        Args:
            model, datamodule, ckpt_path, settings, cache_dir: as for `extract`.
            recipe: how network and transform are built again; without it the guard is in memory alone, see `guard`.

        Returns:
            One outcome per anomaly source and detector, under `detection.protocol = cross` also per source of training,
            on every process.
        """
        settings = settings or DetectionSettings()
        ckpt_path = ckpt_path and self._file(ckpt_path)
        self.load(model, ckpt_path)
        settings = self.preflight("detect", model, datamodule, settings) or settings
        folder, sources = Path(self.default_root_dir), datamodule.sources
        name = self.experiment or folder.absolute().parent.name
        place = Workplace(name, model, datamodule, recipe)
        with self._alert_of_failure(name):
            started, cache = time.perf_counter(), RecordCache(cache_dir)
            entries = self._extract(model, datamodule, settings, cache)
            settings = self.strategy.broadcast(settings)  # the first process has found which detectors apply
            split_of = sources.manifest.split_of
            if sources.training_probes:
                split_of = split_of | dict.fromkeys(sources.fitting.ids, "train")
            every = {
                source: read_records(cache, entries, source, ids_of(datamodule, source)).with_splits(split_of)
                for source in dict.fromkeys(entry.source for entry in entries)
            }
            give_back_memory()
            records, left_out = leave_out_bad(every, settings.on_bad_image)
            if any(one.needs_head for one in settings.detectors_for(sources.knows_anomalies)):
                images = as_float(sources.normal.images([0])).to(self.strategy.root_device)
                head = linear_head(model.network.to(images.device), images)  # large: others beside these know it
                records |= {name: one.with_head(head) for name, one in records.items() if name in (NORMAL, "train")}
            trained = records.pop("train").as_training(NORMAL) if "train" in records else None
            of = sources.noise_of, sources.keep_of
            datasets = DetectionDatasets(records, *of, trained, sources.groups.get("shifted", []))
            with stage("fitting detectors", self):
                outcomes, fits = self._fit_detectors(settings, datasets, datamodule)
            remarks = remarks_on(fits)
            if self.is_global_zero:
                notes = notes_on(records, outcomes, left_out)
                sys.stdout.writelines(f"Note: {note}\n" for note in notes)
                for note in [*notes, *remarks.values()]:  # remarks are printed above the table
                    LOG.warning(note)
                about = {
                    "left_out": left_out,
                    "seconds": round(time.perf_counter() - started, 1),
                    "device": str(self.strategy.root_device),
                    "checkpoint": ckpt_path or model.weights,
                    "probes": self.probe_costs,
                    "remarks": remarks,
                }
                with stage("writing results", self):
                    write_run(folder, place, entries, records, outcomes, self.failures, about)
            self.strategy.barrier("written")
            with stage("guard", self):
                guard = self._save_guard(place, (entries, cache), settings, datasets, fits)
            del every, records, trained, datasets, fits  # which telling does not need
            give_back_memory()
            if self.is_global_zero:
                write_guard_summary(folder, guard)
                with stage("reporting", self):
                    tell(folder, self)
                sys.stdout.write(f"{guard.text(folder)}\n")
                sys.stdout.flush()
            self.strategy.barrier("told")
        self.profiler.describe()  # type: ignore[attr-defined]  # with the stages that followed Lightning's own loop
        return outcomes

    @contextmanager
    def _alert_of_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            with suppress(Exception):  # the run's own error matters more than W&B's
                alert(self.loggers if self.is_global_zero else [], f"{name}: `detect` has failed", str(error)[:500])
            raise

    def preflight(
        self,
        verb: str,
        model: ClassificationTask,
        datamodule: ImageDataModule,
        settings: DetectionSettings | None = None,
    ) -> DetectionSettings | None:
        """Refuse what a verb would fail on later, before any long work; once for each model, data and settings.

        Returns the settings without what does not apply to the network, see `DetectionSettings.for_network`.
        """
        looked_at = (model, datamodule, settings, settings is not None and verb in ("fit", "detect"))
        if self._looked_at != looked_at:
            self._found = preflight(verb, self, model, datamodule, settings)
            self._looked_at = looked_at
        return self._found

    def load(self, model: ClassificationTask, ckpt_path: str | None) -> None:
        """Load a classifier's weights, never executing code; see `extract`."""
        if ckpt_path is None:
            model.load_initial_weights()
            return
        with refused_as(path="ckpt_path"):
            model.load_trained_weights(self._file(ckpt_path))

    def _file(self, ckpt_path: str) -> str:
        path = getattr(self.checkpoint_callback, "best_model_path", "") if ckpt_path == "best" else ckpt_path
        if not path:
            raise Refusal("`ckpt_path` should be `best` only after a `fit` that kept checkpoints. Name a file.")
        return str(path)

    def _fit_detectors(
        self, settings: DetectionSettings, datasets: DetectionDatasets, datamodule: ImageDataModule
    ) -> tuple[list[Outcome], Fits]:
        """Fit on the anomaly sources of this process, which keeps its fits; every process gets all outcomes."""
        detectors = settings.detectors_for(datamodule.sources.knows_anomalies)
        sources, outcomes = datamodule.sources.anomaly_names, list[Outcome]()
        if not datamodule.sources.knows_anomalies and self.is_global_zero:
            sys.stdout.write(
                f"No anomalies are named: {', '.join(one.name for one in detectors)} are fitted on normal images alone, and "
                f"detectors that need anomalies are left out. The sources {BUILT_IN}* are made from the normal images; they do "
                "not predict how your own anomalies will be detected.\n"
            )
        failures = list[Failure]()
        mine = trials_of(detectors, sources, settings.protocol, settings.validation, self.global_rank, self.world_size)
        with stage("training MLPs", self):
            fits = fit_side_by_side(mine, datasets, settings.seed)
        saved = set[Path]()
        for trial in progress(mine, "fitting detectors", len(mine), "fits", quiet=not self.is_global_zero):
            fitted, found, failed = attempt_trial(trial, datasets, settings, fits)
            give_back_memory()  # a fit leaves large blocks of many sizes
            outcomes, failures = outcomes + found, failures + failed
            learnt_from, name = fit_key(trial, datasets)
            path = Path(self.default_root_dir, "detectors", learnt_from, f"{name}.safetensors")
            if fitted is not None and path not in saved:
                counts = {split: found[0].counts[split] for split in ("train", "val")}
                if not trial.detector.needs_anomalies:
                    counts["val"] = counts["val"] | {"anomalous": 0}  # which the threshold does not depend on
                about = {"trained_on": found[0].trained_on, "counts": counts}
                normal = datasets.records[NORMAL]
                save_detector(
                    path, SavedDetector.of(trial.detector.kept(fitted), fitted, found[0].threshold, normal, **about)
                )
                saved.add(path)
        outcomes, self.failures = gather(outcomes, failures, detectors, sources)
        return outcomes, fits

    def _save_guard(
        self,
        place: Workplace,
        records: tuple[Sequence[CacheEntry], RecordCache],
        settings: DetectionSettings,
        datasets: DetectionDatasets,
        fits: Fits,
    ) -> GuardSummary:
        """Choose, calibrate and save the guard's detector on the first process; the others help to prepare probes."""
        folder, sources = Path(self.default_root_dir) / "guard", place.datamodule.sources
        chosen: Calibrated | Refusal = Refusal()
        if self.is_global_zero:
            candidates = settings.guarding(sources.knows_anomalies)
            try:
                chosen = best_calibrated(candidates, datasets, sources.anomaly_names, settings, self.failures, fits)
            except Refusal as refusal:
                chosen = refusal
        give_back_memory()
        probes = self.strategy.broadcast([] if isinstance(chosen, Refusal) else chosen.detector.probes)
        network = place.model.network.to(self.strategy.root_device)
        ready = prepare(probes, network, place.datamodule, *records, self)
        summary, self.guard = keep_guard(folder, place, chosen, datasets.records, ready)
        return summary
