"""Lightning's command line with run folders, detection settings and two more verbs.

It adds the callbacks that every run has unless the user says otherwise, and refuses what cannot work before a verb takes its
first step or claims a folder.
"""

import re
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_gradood.cli import defaults, parsing
from lightning_gradood.cli.signatures import readable_signatures
from lightning_gradood.cli.stopping import share_signals
from lightning_gradood.cli.verbs import ABOUT, VERBS, Ended, Stopped
from lightning_gradood.core import (
    Refusal,
    claim,
    encode,
    generator_states,
    hold,
    new_run_folder,
    refuse_foreign,
    refused_as,
    restore_generators,
    stage,
)
from lightning_gradood.data import ImageDataModule
from lightning_gradood.evaluation import DetectionSettings, Outcome
from lightning_gradood.extraction import PredictionWriter
from lightning_gradood.guard import Recipe
from lightning_gradood.report import ReportCallback, WandbCallback
from lightning_gradood.tasks import ClassificationTask
from lightning_gradood.trainer import Trainer

_IDENTITY = ("seed_everything", "model", "data", "detection")  # what makes an experiment this one and no other
_FILLING = ("fit", "detect")  # verbs that fill a run folder, or one of another run of the same experiment
_KEPT = "What was read from the network is kept; the same command reads only the rest."
_GOES_ON = "Epochs that ended and records that were read are kept: the same command goes on with --run_dir {}"
_LEFT_ALONE = re.compile("Connection (closed|reset) by peer|Broken pipe|recvValue failed")  # of gloo and its store
_SECONDS = 5.0  # until a launcher ends this process, too


class Command(LightningCLI):
    """One call of the program.

    Args:
        leaving: what to undo when the program ends, whatever happens.
        args: words of the command line.
        callbacks: beside those of the configuration.

    Attributes:
        outcomes: of `fit` and `detect`, one for each anomaly source and detector.
    """

    trainer: Trainer
    model: ClassificationTask
    datamodule: ImageDataModule
    detection: DetectionSettings | None = None  # stage two's settings; None if it was switched off

    def __init__(self, leaving: ExitStack, args: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        self.leaving, self.callbacks, self.outcomes = leaving, callbacks, list[Outcome]()
        self.log_into = leaving.enter_context(defaults.run_log())
        self.words, self.folder = parsing.with_shipped_files(args), cast(Path | None, None)
        self.experiment = parsing.experiment_name(self.words)
        mode = {"parser_mode": "omegaconf+", "allow_abbrev": False}
        offered = {verb: skipped for verb, skipped in self.subcommands().items() if [verb] == self.words[:1]}
        if offered:  # parsers of the other verbs would take two thirds of the time to parse
            self.subcommands = lambda: offered  # type: ignore[method-assign]
        verbs = {verb: {**mode, "description": VERBS[verb]} for verb in self.subcommands()}
        with readable_signatures(self.words):
            super().__init__(
                ClassificationTask,
                ImageDataModule,
                save_config_callback=parsing.LogConfig,
                save_config_kwargs={"save_to_log_dir": False},
                trainer_class=Trainer,
                seed_everything_default=0,
                parser_class=parsing.Parser,
                parser_kwargs={**mode, "description": ABOUT, **verbs},
                subclass_mode_model=True,
                subclass_mode_data=True,
                args=self.words,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # checkpoints hold tensors only, so that loading never executes code
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Verbs, each with the arguments that are no keys, so that any verb takes the configuration of any other."""
        ours = {"model", "datamodule", "settings", "cache_dir", "recipe"}
        fixed = {"weights_only", "return_predictions", "verbose"}
        lightnings = {verb: set(skipped) | fixed for verb, skipped in LightningCLI.subcommands().items()}
        return {**lightnings, "extract": ours, "detect": ours}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys that every verb knows, so that one file serves all."""
        for name, (kind, default, text) in parsing.KEYS.items():
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)

    def _parse_ckpt_path(self) -> None:
        """Look at what was parsed; leave hyper-parameters in checkpoints alone, which Lightning lets beat the command line."""
        verb = self.config["subcommand"]
        parsing.check_settings(self._parser(verb), self.config[verb])

    def before_instantiate_classes(self) -> None:
        """Resolve a network's name, find the run's folder and point the loggers at it."""
        defaults.resolve_network(self.config[str(self.subcommand)], self.subcommand == "fit")
        self.folder = self._choose_folder()
        if self._setting("trainer").fast_dev_run and self._setting("detection") is not None:
            defaults.rehearse(self.config[str(self.subcommand)])
        about = lambda: defaults.run_identity(self.configuration, str(self.subcommand), self.experiment, self.folder)  # noqa: E731
        defaults.place_loggers(self._setting("trainer").logger, self.folder, about)

    def instantiate_classes(self) -> None:
        """Build everything; a constructor's refusal comes back as it was raised, without the parser's wrapping."""
        try:
            super().instantiate_classes()
        except Exception as error:
            if refusal := parsing.refusal_behind(error):
                raise refusal from error
            parsing.refuse_denied(str(error))
            raise
        self.detection = self._get(self.config_init, "detection")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the callbacks and the logger that every run has, unless the user names their own."""
        config = self._get(self.config_init, "trainer")
        more = [WandbCallback(self._get(self.config_init, "logging")), *self.callbacks]
        trained_into = self.folder if self.subcommand == "fit" else None
        report = ReportCallback(settings=self._get(self.config_init, "report"))
        config.callbacks = defaults.with_default_callbacks(config, trained_into, more, report)
        config.default_root_dir = str(self.folder or "runs")
        if config.logger is None:
            config.logger = CSVLogger(self.folder, name="logs") if self.folder else False
        with parsing.refused_by_lightning(ValueError, TypeError):
            trainer: Trainer = super().instantiate_trainer(**kwargs)  # type: ignore[assignment]  # trainer_class is ours
        trainer.experiment = self.experiment
        share_signals(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb; one that is stopped says what is kept."""
        try:
            with parsing.refused_by_lightning():
                self._look_ahead(subcommand)
                super()._run_subcommand(subcommand)
        except Stopped as stopped:
            kept = _GOES_ON.format(shlex.quote(str(self.folder))) if subcommand == "fit" else _KEPT
            stopped.sentence = f"stopped by {stopped.signal}. {kept}"
            raise
        except RuntimeError as error:
            if not _LEFT_ALONE.search(str(error)):
                raise
            time.sleep(_SECONDS)
            raise Ended(f"another process of this run has ended; its output says why. {_KEPT}", 1) from error

    def _look_ahead(self, verb: str) -> None:
        """Refuse what cannot work before the first step is taken and before the folder is claimed; then claim it."""
        if self.detection is None and verb in ("extract", "detect"):
            raise Refusal(f"`detection` should hold settings for `{verb}`. Got null. Remove --detection null.")
        folder = self.folder if self.trainer.is_global_zero else None
        if folder:
            earlier = verb not in _FILLING and self._setting("run_dir") is not None
            refuse_foreign(folder, self.configuration, _IDENTITY, earlier)
        if verb == "fit":
            if checkpoint := self._weights(defaults.LAST):
                _check_resumable(checkpoint, self.model)
            self.model.load_initial_weights()
        else:
            self._refuse_untrained(verb)
            self.trainer.load(self.model, self._weights())
        probes = verb in ("fit", "extract", "detect")
        self.trainer.preflight(verb, self.model, self.datamodule, self.detection if probes else None)
        if verb == "fit" and self.trainer.is_global_zero:  # the others wait until the images are there
            self.datamodule.compare_with_training()
        defaults.set_threads(self.trainer, self._setting("threads"), self.leaving)
        if folder:
            if verb in _FILLING:
                self.leaving.enter_context(hold(folder))
            claim(folder, self.configuration, _IDENTITY)
            self.log_into(folder, self.configuration)

    def _refuse_untrained(self, verb: str) -> None:
        """Refuse a network whose weights are named nowhere and drawn at random, as a second one shows; not in a rehearsal."""
        config, generators = self.config[verb], generator_states()
        if self._weights() or self.model.weights or config.trainer.fast_dev_run:
            return
        try:
            part = Namespace(model=config.model)  # type: ignore[no-untyped-call]
            again = self._parser(verb).instantiate(part).model
        finally:
            restore_generators(generators)
        pairs = zip(again.named_parameters(), self.model.parameters(), strict=True)
        if drawn := [name for (name, one), own in pairs if not one.equal(own)]:
            raise Refusal(
                f"`model.weights` should name the weights of a trained network for `{verb}`. Got none, and no checkpoint, but "
                f"`{drawn[0]}` at random. Name a file with --model.weights or --ckpt_path, or with --run_dir a folder that `fit` "
                "has filled; or try all stages on few images with --trainer.fast_dev_run true."
            )

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """The classifier is loaded by `_look_ahead`, as Lightning takes checkpoints of its own alone."""
        return {**super()._prepare_subcommand_kwargs(subcommand), "ckpt_path": None, "weights_only": True}

    def fit(self, model: ClassificationTask, datamodule: ImageDataModule, **kwargs: Any) -> None:
        """Train the classifier, going on from the folder's last checkpoint, then run stage two."""
        with stage("training", self.trainer):
            self.trainer.fit(model, datamodule=datamodule, ckpt_path=self._weights(defaults.LAST), weights_only=True)
        if self.detection is not None:
            self._detect(None if self._setting("trainer").fast_dev_run else "best")

    def detect(self, **kwargs: Any) -> None:
        """Stage two alone."""
        self._detect(self._weights())

    def _detect(self, ckpt_path: str | None) -> None:
        self.outcomes = self.trainer.detect(
            self.model, self.datamodule, ckpt_path, self.detection, self._setting("cache_dir"), self._recipe()
        )

    def extract(self, model: ClassificationTask, datamodule: ImageDataModule, **kwargs: Any) -> None:
        """Stage two's first half."""
        self.trainer.extract(model, datamodule, self._weights(), self.detection, self._setting("cache_dir"))

    def predict(self, **kwargs: Any) -> None:
        """Write predictions to the run's folder, which `predict` has always."""
        path = Path(str(self.folder), "predictions.parquet")
        self.trainer.callbacks.append(PredictionWriter(path))  # type: ignore[attr-defined]
        self.trainer.predict(**kwargs | {"return_predictions": False})
        rank_zero_info(f"Predictions: {path}")

    @property
    def configuration(self) -> dict[str, Any]:
        """The resolved configuration of the verb, as plain values."""
        text = self._parser(self.subcommand).dump(self.config[str(self.subcommand)], skip_unset=False)
        return dict(yaml.safe_load(text))

    def _recipe(self) -> Recipe | None:
        """How a guard builds network and transform again; None for a task of the user's own that has no `network`."""
        parts = (self._setting("model").init_args.get("network"), self._setting("data").init_args.get("transform"))
        network, transform = (encode(part.as_dict()) if part else None for part in parts)
        return Recipe(network, transform) if network else None

    def _weights(self, name: str = defaults.BEST) -> str | None:
        """The weights that are named, or else a checkpoint of the run."""
        path = self.folder / name if self.folder else None
        return self._setting("ckpt_path") or (str(path) if path and path.is_file() else None)

    def _choose_folder(self) -> Path | None:
        named = self._setting("run_dir")
        if named is not None and self.subcommand == "fit" and self._setting("trainer").fast_dev_run:
            return Path(f"{named}_fast_dev_run")  # the folder is left to the run that is rehearsed
        if named is not None:
            return Path(named)
        if self.subcommand not in (*_FILLING, "predict"):
            return None
        return self.leaving.enter_context(new_run_folder(Path("runs", self.experiment)))

    def _setting(self, key: str) -> Any:
        return self._get(self.config, key)


def _check_resumable(path: str, model: ClassificationTask) -> None:
    """Refuse a file from which `fit` cannot go on; else `model` holds its weights afterwards."""
    with refused_as(path="ckpt_path"):
        model.load_trained_weights(path)  # says what is wrong with the file, and never executes code
    content: Any = {} if path.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=True)
    if "pytorch-lightning_version" not in content:
        raise Refusal(
            f"`ckpt_path` should be a Lightning checkpoint from which `fit` can go on. Got `ckpt_path = {path}`, which "
            f"holds weights only. To start from these weights use --model.weights {path}."
        )
