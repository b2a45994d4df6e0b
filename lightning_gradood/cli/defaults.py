"""What every run has unless the user says otherwise: callbacks, places and names for loggers, threads, and `run.log`."""

import logging
import os
import platform
import shlex
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities import rank_zero_info
from omegaconf import OmegaConf

from lightning_gradood.core import CHECKPOINTS, LOG, Refusal, class_path, decode, encode, versions
from lightning_gradood.extraction import ImageProgressBar
from lightning_gradood.networks import CentreSquare, outputs_of, trained_network
from lightning_gradood.report import FINISH_SECONDS, PROJECT, ReportCallback, offline_without_account, working_commit
from lightning_gradood.tasks import IMAGENET, ResumeCheckpoint

BEST, LAST = f"{CHECKPOINTS}/best.ckpt", f"{CHECKPOINTS}/last.ckpt"
_REHEARSED = 60  # images of each source under fast_dev_run: enough to fit every preset, few enough for one batch
_TAG = 64  # characters that W&B allows
_THREADS = "OMP_NUM_THREADS"
_LOGGERS = ("lightning_gradood", "lightning.pytorch", "lightning.fabric")
_LINES = 3  # in a message: a table, such as Lightning's summary of a network, is left out
_SEEDS = ("seed_everything", "data.init_args.split.seed", "detection.seed")
_RECORDS = 10_000  # that are kept at most before the run has a folder


class RunCheckpoint(ModelCheckpoint):
    """Keep the most accurate checkpoint of a run; `ResumeCheckpoint` keeps the last."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / CHECKPOINTS, "best", "val/accuracy", mode="max", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning when a fit goes on; absolute paths of a folder that was moved or copied become those of today."""
        best = str(Path(str(self.dirpath), Path(state_dict["best_model_path"]).name))
        if Path(best).is_file():
            paths = {"dirpath": str(self.dirpath), "best_model_path": best, "kth_best_model_path": best}
            state_dict = state_dict | paths | {"best_k_models": {best: state_dict["best_model_score"]}}
        super().load_state_dict(state_dict)


def with_default_callbacks(
    trainer: Any, folder: Path | None, more: Sequence[Callback], report: ReportCallback
) -> list[Callback]:
    """Add reporting, the progress bar, and where a classifier is trained into `folder` the best and the last checkpoint."""
    given = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks] * bool(trainer.callbacks)
    given = [*given, *more]
    defaults: dict[type[Callback], Callback] = {ReportCallback: report}
    if trainer.enable_progress_bar is not False:
        defaults[ProgressBar] = ImageProgressBar()
    if folder and trainer.enable_checkpointing is not False:
        defaults[ModelCheckpoint] = RunCheckpoint(folder)
        given = [ResumeCheckpoint(folder / LAST), *given]
    return [*given, *(ours for kind, ours in defaults.items() if not any(isinstance(one, kind) for one in given))]


def run_identity(configuration: Mapping[str, Any], verb: str, experiment: str, folder: Path | None) -> dict[str, Any]:
    """How W&B knows a run: its folder from `runs/` on as name, the experiment as group, the verb as job type, and tags.

    Tags are network, normal images, label designs and the commit of the code that called, each at most 64 characters.
    """
    network = configuration["model"].get("init_args", {}).get("network")
    normal = configuration["data"].get("init_args", {}).get("normal")
    designs = (configuration.get("detection") or {}).get("label_designs") or []
    found = [_innermost(network), _innermost(normal), *map(_innermost, designs), working_commit()]
    name, tags = str(folder or "").removeprefix("runs/") or None, [tag[:_TAG] for tag in dict.fromkeys(found) if tag]
    return {"name": name, "group": experiment, "job_type": verb, "tags": tags}


def _innermost(part: Any) -> str:
    """Class name of the data set in a source, or of the part itself; of a folder the last two names of its path."""
    if isinstance(part, str):
        return "/".join(Path(part).parts[-2:])
    if not isinstance(part, Mapping):
        return ""
    inner = (part.get("init_args") or {}).get("dataset")
    return _innermost(inner) if inner else str(part.get("class_path", "")).rpartition(".")[2]


def place_loggers(loggers: Any, folder: Path | None, identity: Callable[[], dict[str, Any]]) -> None:
    """Point loggers that name no place of their own at the run's folder, name W&B's runs, and keep W&B offline without account.

    The parsed setting `trainer.logger` is changed in place; `identity` is asked only where there is a `WandbLogger`.
    """
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if not isinstance(logger, Namespace):
            continue
        given: Any = logger.get("init_args") or {}  # a logger may take no arguments
        if "save_dir" in given and given["save_dir"] in (None, "."):
            given["save_dir"] = str(folder or "runs")
        if logger.class_path.endswith("WandbLogger"):
            os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))  # W&B itself would wait for hours
            defaults = {"project": os.environ.get("WANDB_PROJECT", PROJECT), **identity()}
            for key, value in defaults.items():
                if given.get(key) is None:
                    given[key] = value
            if line := offline_without_account(given["save_dir"]):
                rank_zero_info(line)


def resolve_network(configuration: Namespace, trains: bool) -> None:
    """Write what the name of a trained network stands for, the number of its weights' outputs, and its images; in place.

    Images are described where the experiment leaves them open: by null for a network that is named with its weights,
    else by `as_trained` and by a `CentreSquare` of no size.
    """
    model, data = configuration.model.init_args, configuration.data.init_args
    if not (given := model.get("network")) or not {"weights", "normalize"} <= set(model.as_dict()):
        return  # a task of the user's own
    path, arguments, said = given.class_path, given.as_dict().get("init_args") or {}, list[str]()
    found = trained_network(path, arguments, model.weights)
    usual = found
    with suppress(Refusal):  # of a name that torchvision or timm have no weights for
        usual = found or trained_network(
            path, {**arguments, "weights": "DEFAULT", "pretrained": True}, model.weights or "none"
        )
    if found:
        model.network, model.weights = _named(found.class_path, found.arguments), found.weights
        said.append(f"Weights: {found.weights} for {found.outputs} outputs")
    elif model.weights and not trains and (outputs := outputs_of(path, arguments, model.weights, model.weights_prefix)):
        model.network.init_args = _namespace(**{**arguments, "num_classes": outputs})
        said.append(f"The network gets {outputs} outputs, as {model.weights} has")
    if model.normalize == "as_trained" or (found and model.normalize is None):
        model.normalize = _namespace(mean=usual.mean, std=usual.std) if usual else _namespace(**vars(IMAGENET))
        said.append(f"normalised by mean {model.normalize.mean} and std {model.normalize.std} (--model.normalize)")
    is_open = data.transform is not None and data.transform.get("class_path") == class_path(CentreSquare)
    if (found and data.transform is None) or (is_open and data.transform.init_args.size is None):
        ours = path.startswith("lightning_gradood.networks.") and "efficientnet" not in path
        plain = {"class_path": class_path(CentreSquare), "init_args": {"size": 32 if ours else 224}}
        data.transform = _named(**(usual.transform if usual else plain))
        made = decode(encode(data.transform.as_dict()))
        said.append(f"transform {', '.join(map(str, getattr(made, 'transforms', [made])))} (--data.transform)")
    if said:
        rank_zero_info(f"{'; '.join(said)}.")


def _named(class_path: str, init_args: Mapping[str, Any]) -> Namespace:
    """A class path with its arguments, and those among them, as the parser has them."""
    parts = {
        name: [_named(**one) for one in value] if name == "transforms" else value for name, value in init_args.items()
    }
    return _namespace(class_path=class_path, init_args=_namespace(**parts))


def _namespace(**settings: Any) -> Namespace:
    return Namespace(**settings)  # type: ignore[no-untyped-call]


def rehearse(configuration: Namespace) -> None:
    """Let `--trainer.fast_dev_run true` walk stage two as well, on a few images and with records of its own; in place."""
    given = configuration.data.init_args
    given.limits.images, given.limits.sources = min(given.limits.images or _REHEARSED, _REHEARSED), None
    given.probe_batch_size = max(given.probe_batch_size, _REHEARSED)  # Lightning takes one batch of each source
    configuration.detection.false_positive_rate = 0.5  # few images keep no smaller one
    configuration.cache_dir = str(Path(configuration.cache_dir) / "rehearsal")
    rank_zero_info(
        f"fast_dev_run: every stage runs on at most {given.limits.images} images of each source. Its numbers mean nothing."
    )


def set_threads(trainer: Any, threads: int | None, leaving: ExitStack) -> None:
    """Set the number of torch's threads where the network runs on the CPU, and say it.

    Without `threads` it is `OMP_NUM_THREADS`, or else this process' share of the processors that affinity and control
    group allow. `leaving` gives `OMP_NUM_THREADS` back what the user had said.
    """
    if trainer.strategy.root_device.type != "cpu":
        return
    given = os.environ.get(_THREADS, "")
    # SLURM has shared the processors out: the affinity is this process' alone
    processes = 1 if "SLURM_CPUS_PER_TASK" in os.environ else trainer.num_devices
    threads = threads or (int(given) if given.isdigit() else max(1, cpu_count() // processes))
    torch.set_num_threads(threads)
    os.environ[_THREADS] = str(threads)  # for the processes that Lightning starts; it would set its own number
    leaving.callback(os.environ.update, {_THREADS: given}) if given else leaving.callback(os.environ.pop, _THREADS)
    rank_zero_info(f"Computing on {threads} thread{'s' * (threads > 1)}.")


@contextmanager
def run_log() -> Iterator[Callable[[Path, Mapping[str, Any]], None]]:
    """Keep what is logged and warned of until the run has a folder of its own.

    Yields a function of the folder and the resolved configuration: it adds what was kept to `run.log`, and from then on
    each line.
    """
    kept = MemoryHandler(_RECORDS, flushLevel=logging.CRITICAL + 1)
    kept.setLevel(logging.INFO)
    kept.addFilter(lambda record: record.getMessage().count("\n") <= _LINES)
    loggers, level, show = [logging.getLogger(name) for name in _LOGGERS], LOG.level, warnings.showwarning

    def begin(folder: Path, configuration: Mapping[str, Any]) -> None:
        target = logging.FileHandler(folder / "run.log", encoding="utf-8", errors="backslashreplace", delay=True)
        target.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk ends no run
        seeds = {name: OmegaConf.select(OmegaConf.create(dict(configuration)), name) for name in _SEEDS}
        for line in (  # what a reader needs to repeat the run
            f"python -m lightning_gradood {shlex.join(sys.argv[1:])}",
            f"versions: {', '.join(f'{name} {number}' for name, number in versions().items())}",
            f"machine: {socket.gethostname()}, process {os.getpid()}, {platform.platform()}, {os.cpu_count()} processors",
            f"seeds: {', '.join(f'{name} {seed}' for name, seed in seeds.items())}",
        ):
            target.handle(logging.LogRecord("run", logging.INFO, "", 0, f"# {line}", (), None))
        target.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        kept.setTarget(target)
        kept.capacity = 0  # nothing is kept back any more
        kept.flush()

    def showwarning(message: Warning | str, *more: Any, **named: Any) -> None:
        kept.handle(logging.LogRecord("warnings", logging.WARNING, "", 0, str(message), (), None))
        show(message, *more, **named)

    for one in loggers:
        one.addHandler(kept)
    LOG.setLevel(logging.INFO)
    warnings.showwarning = showwarning
    try:
        yield begin
    finally:
        for one in loggers:
            one.removeHandler(kept)
        LOG.setLevel(level)
        warnings.showwarning = show
        with suppress(OSError):  # of a disk that is full
            if kept.target is not None:
                kept.target.close()
