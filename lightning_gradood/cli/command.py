"""Lightning's command line with run folders, stage two's settings and two more verbs."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_gradood.callbacks import ImageProgressBar, ReportCallback
from lightning_gradood.cli.parsing import LogConfig, Parser
from lightning_gradood.data import ImageDataModule
from lightning_gradood.detectors import DetectionSettings
from lightning_gradood.errors import Refusal
from lightning_gradood.networks import read_state_dict
from lightning_gradood.report import offline_without_account
from lightning_gradood.runs import CHECKPOINTS, claim, new_run_folder
from lightning_gradood.tasks import ClassificationTask
from lightning_gradood.trainer import DEFAULT_CACHE, Trainer

_IDENTITY = ("seed_everything", "model", "data", "detection")  # what makes an experiment this one and no other
_WITH_RESULTS = ("fit", "detect")  # verbs that get a run folder of their own
_HELP = {
    "detection": "Stage two: what is read from the classifier and which detectors are fitted; null stops `fit` before it.",
    "run_dir": "Folder of the run: a new one below runs/ by default; an earlier one of the same experiment is continued.",
    "cache_dir": "Where records are kept and found again by later runs.",
}


class Command(LightningCLI):
    """One call of the program.

    Args:
        leaving: what to undo when the program ends, whatever happens.
        args: words of the command line; None for those of the process.
    """

    trainer: Trainer
    model: ClassificationTask
    datamodule: ImageDataModule

    def __init__(self, leaving: ExitStack, args: list[str] | None) -> None:
        self.leaving = leaving
        self.folder: Path | None = None
        mode = {"parser_mode": "omegaconf+"}
        super().__init__(
            ClassificationTask,
            ImageDataModule,
            save_config_callback=LogConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_class=Trainer,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={**mode, **{verb: {**mode, "allow_abbrev": False} for verb in self.subcommands()}},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # checkpoints hold tensors only, so that loading never executes code
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Verbs, each with the arguments that the configuration gives elsewhere."""
        ours = {"model", "datamodule", "settings", "cache_dir"}
        return {**LightningCLI.subcommands(), "extract": ours, "detect": ours}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys that every verb knows, so that one file serves all."""
        settings = DetectionSettings()
        parser.add_argument("--detection", type=DetectionSettings | None, default=settings, help=_HELP["detection"])
        parser.add_argument("--run_dir", type=str | None, default=None, help=_HELP["run_dir"])
        parser.add_argument("--cache_dir", type=str, default=DEFAULT_CACHE, help=_HELP["cache_dir"])

    def _parse_ckpt_path(self) -> None:
        """Leave hyper-parameters in checkpoints alone: Lightning lets them beat the command line without a word."""

    def before_instantiate_classes(self) -> None:
        """Find the run's folder and point the loggers at it."""
        self.folder = self._choose_folder()
        loggers = self._setting("trainer").logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if not isinstance(logger, Namespace):
                continue
            if logger.init_args.get("save_dir") in (None, "."):
                logger.init_args.save_dir = str(self.folder or "runs")
            if logger.class_path.endswith("WandbLogger") and (
                line := offline_without_account(logger.init_args.save_dir)
            ):
                rank_zero_info(line)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the callbacks and the logger that every run has, unless the user names their own."""
        config = self._get(self.config_init, "trainer")
        given = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks] * bool(config.callbacks)
        ours = [
            callback for kind, callback in self._standard_callbacks() if not any(isinstance(g, kind) for g in given)
        ]
        config.callbacks = [*given, *ours]
        config.default_root_dir = str(self.folder or "runs")
        if config.logger is None:
            config.logger = CSVLogger(self.folder, name="logs") if self.folder else False
        trainer: Trainer = super().instantiate_trainer(**kwargs)  # type: ignore[assignment]  # trainer_class is ours
        return trainer

    def before_fit(self) -> None:
        """Look at everything that can be refused before the first step is taken."""
        self.trainer.check(self.model, self.datamodule, training=True)
        if self.detection is not None and self.trainer.is_global_zero:
            _ = self.datamodule.manifest  # opens and splits every source
        self._claim_folder()

    def fit(self, model: ClassificationTask, datamodule: ImageDataModule, **kwargs: Any) -> None:
        """Train the classifier, going on from the folder's last checkpoint, then run stage two."""
        kwargs["ckpt_path"] = kwargs["ckpt_path"] or self._checkpoint("last.ckpt")
        if kwargs["ckpt_path"] is not None:
            read_state_dict(kwargs["ckpt_path"])  # refuses files that are no checkpoint or would execute code
        self.trainer.fit(model, datamodule=datamodule, **{**kwargs, "weights_only": True})
        if self.detection is not None and not self._setting("trainer").fast_dev_run:
            self.trainer.detect(model, datamodule, "best", self.detection, self._setting("cache_dir"))

    def before_detect(self) -> None:
        """Refuse sources that cannot be split before the folder is claimed."""
        if self.trainer.is_global_zero:
            _ = self.datamodule.manifest
        self._claim_folder()

    def detect(self, model: ClassificationTask, datamodule: ImageDataModule, ckpt_path: str | None) -> None:
        """Stage two alone."""
        self._stage_two(self.trainer.detect, ckpt_path)

    def extract(self, model: ClassificationTask, datamodule: ImageDataModule, ckpt_path: str | None) -> None:
        """Stage two's first half."""
        self._stage_two(self.trainer.extract, ckpt_path)

    def validate(self, **kwargs: Any) -> None:
        """Lightning's, with any file of weights."""
        self._with_weights(self.trainer.validate, **kwargs)

    def test(self, **kwargs: Any) -> None:
        """Lightning's, with any file of weights."""
        self._with_weights(self.trainer.test, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Lightning's, with any file of weights."""
        self._with_weights(self.trainer.predict, **kwargs)

    @property
    def detection(self) -> DetectionSettings | None:
        """Stage two's settings; None if it was switched off."""
        settings: DetectionSettings | None = self._get(self.config_init, "detection")
        return settings

    def _with_weights(self, verb: Callable[..., Any], ckpt_path: str | None, **kwargs: Any) -> None:
        self.trainer.load(self.model, ckpt_path or self._checkpoint("best.ckpt"))
        self.trainer.check(self.model, self.datamodule)
        verb(**{**kwargs, "weights_only": True})

    def _stage_two(self, verb: Callable[..., Any], ckpt_path: str | None) -> None:
        if self.detection is None:
            raise Refusal(
                f"`detection` should hold settings for `{self.subcommand}`. Got null. Remove --detection null."
            )
        ckpt_path = ckpt_path or self._checkpoint("best.ckpt")
        verb(self.model, self.datamodule, ckpt_path, self.detection, self._setting("cache_dir"))

    def _standard_callbacks(self) -> list[tuple[type[Callback], Callback]]:
        config = self._setting("trainer")
        callbacks: list[tuple[type[Callback], Callback]] = [(ReportCallback, ReportCallback())]
        if config.enable_progress_bar is not False:
            callbacks.append((ProgressBar, ImageProgressBar()))
        if self.subcommand == "fit" and self.folder and config.enable_checkpointing is not False:
            folder = self.folder / CHECKPOINTS
            best = ModelCheckpoint(
                folder, "best", "val/accuracy", mode="max", save_last=True, enable_version_counter=False
            )
            callbacks.append((ModelCheckpoint, best))
        return callbacks

    def _checkpoint(self, name: str) -> str | None:
        path = self.folder / CHECKPOINTS / name if self.folder else None
        return str(path) if path and path.is_file() else None

    def _choose_folder(self) -> Path | None:
        named = self._setting("run_dir")
        if named is not None:
            return Path(named)
        if self.subcommand not in _WITH_RESULTS:
            return None
        files = self._setting("config") or ["run"]
        return self.leaving.enter_context(new_run_folder(Path("runs") / Path(str(files[0])).stem))

    def _claim_folder(self) -> None:
        if self.folder and self.trainer.is_global_zero:
            text = self._parser(self.subcommand).dump(self.config[str(self.subcommand)], skip_none=False)
            claim(self.folder, yaml.safe_load(text), _IDENTITY)

    def _setting(self, key: str) -> Any:
        return self._get(self.config, key)
