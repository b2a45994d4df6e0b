"""What the parser takes and no annotation refuses: null for every type, a number where settings should stand, any seed.

What a value of the right type may be is said by annotations, and of the Trainer's settings by Lightning.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_gradood.core import Refusal, Seed

_TRAINED = ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches", "check_val_every_n_epoch")


@contextmanager
def refused_by_lightning(*more: type[Exception]) -> Iterator[None]:
    """Word what Lightning, or another exception among `more`, says of the Trainer's settings."""
    try:
        yield
    except Refusal:
        raise
    except (MisconfigurationException, ValueError) as error:
        if not isinstance(error, (MisconfigurationException, *more)) and "`val_check_interval`" not in str(error):
            raise
        said = " ".join(str(error).split())
        raise Refusal(f"`trainer` should hold settings that work on this machine. Got: {said}") from error


def check_settings(parser: ArgumentParser, config: Namespace) -> None:
    """Refuse what the parser of a verb lets pass and nothing can work with."""
    mlp = [] if config.get("detection") is None else ["detection.mlp"]
    refuse_null(parser, config, ["trainer", "logging", "report", *mlp])
    for name in ("run_dir", "cache_dir"):
        if config[name] is not None and not config[name].strip():
            raise Refusal(f"`{name}` should be the path of a folder. Got an empty one. Leave it out for its default.")
    for name in _TRAINED:
        if config.trainer.get(name) == 0:  # Lightning trains nothing, or divides by it
            raise Refusal(
                f"`trainer.{name}` should be above 0. Got `trainer.{name} = 0`. Without training use `detect`."
            )
    seed = config.seed_everything
    try:
        Seed(0 if seed is None or isinstance(seed, bool) else seed)
    except ValueError as error:
        raise Refusal(f"`seed_everything` should be a seed. Got {error}. Write e.g. 0.") from error


def refuse_null(parser: ArgumentParser, config: Namespace, sections: Sequence[str]) -> None:
    """Refuse null where a value is needed; to the parser it means that none was given. `sections` are keys that hold others."""
    for name in sections:
        if not isinstance(given := config.get(name), Namespace):
            raise Refusal(f"`{name}` should hold settings. Got `{name} = {given}`. Leave it out for the defaults.")
    seeded = config.clone()
    if seeded.get("seed_everything", 0) is None:  # Lightning's word for no seed
        seeded.seed_everything = 0
    set_parsing_settings(unset_sentinel=True)
    try:
        parser.validate(seeded)
    except (TypeError, KeyError) as error:
        parser.error(str(error), error)
    finally:
        set_parsing_settings(unset_sentinel=False)
