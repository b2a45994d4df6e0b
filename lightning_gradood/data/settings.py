"""What the settings of a datamodule must be, checked before anything is opened."""

from collections.abc import Collection, Iterable, Sequence

from lightning_gradood.core import Refusal, check_finite, check_seed, check_whole
from lightning_gradood.data.source import Source
from lightning_gradood.data.splits import exact_shares
from lightning_gradood.records import NORMAL

_LONGEST = 100  # letters of a source's name, which becomes a folder's and a file's
_MOST_IMAGES, _MOST_WORKERS = 2**20, 1024  # in a batch; of a loader
_MEAN = "mean"  # stands for the mean over sources wherever a source's name stands in results


def refuse_settings(anomalies: Iterable[str], split: Sequence[float], validation_fraction: float) -> None:
    """Refuse names that would make ids ambiguous, and fractions that are no fractions.

    Args:
        anomalies: The names of the anomalous sources, those of attacks and corruptions among them.
        split: The shares of train, val and test.
        validation_fraction: The part of the training images held out.

    Raises:
        Refusal: A name is empty, reserved, there twice or holds a slash; shares do not sum to 1; the part is nothing or
            everything.
    """
    anomalies = list(anomalies)
    for name in anomalies:
        if name in ("", NORMAL, _MEAN, ".", "..") or "/" in name or not name.isprintable() or len(name) > _LONGEST:
            raise Refusal(
                f"`anomalies` should have names without a slash, of at most {_LONGEST} letters, other than `{NORMAL}`, "
                f"`{_MEAN}`, `.` and `..`. Got `anomalies` with the name `{name[:_LONGEST].encode('unicode_escape').decode()}`. "
                "Rename that source."
            )
    repeated = sorted({name for name in anomalies if anomalies.count(name) > 1})
    if repeated:
        raise Refusal(
            "`anomalies`, `attacks` and `corruptions` should have different names. "
            f"Got {repeated} more than once. Rename one of them."
        )
    if not isinstance(validation_fraction, int | float) or not 0 < validation_fraction < 1:
        raise Refusal(
            "`validation_fraction` should be between 0 and 1. "
            f"Got `validation_fraction = {validation_fraction}`. Write e.g. 0.1."
        )
    exact_shares(split)


def refuse_limits(**limits: int) -> None:
    """Refuse numbers of images to take that are none.

    Raises:
        Refusal: A limit is below 1, or no integer.
    """
    for name, limit in limits.items():
        check_whole(name, limit, 1, 2**63, 1000)


def refuse_loading(batch_size: int, probe_batch_size: int, num_workers: int, **seeds: int) -> None:
    """Refuse batches, workers and seeds that no loader and no generator takes.

    Raises:
        Refusal: One is no integer, or out of its range.
    """
    check_whole("batch_size", batch_size, 1, _MOST_IMAGES, 128)
    check_whole("probe_batch_size", probe_batch_size, 1, _MOST_IMAGES, 64)
    check_whole("num_workers", num_workers, 0, _MOST_WORKERS, 4)
    for name, seed in seeds.items():
        check_seed(f"data.{name}", seed)


def refuse_memory(memory_limit_gib: float, max_megapixels: float) -> None:
    """Refuse sizes that are none.

    Raises:
        Refusal: One is negative, NaN, or infinite where a number of bytes is made of it.
    """
    check_finite("memory_limit_gib", memory_limit_gib, 0, 2**33, 2.0)
    if not isinstance(max_megapixels, int | float) or not max_megapixels > 0:
        raise Refusal(
            f"`data.max_megapixels` should be above 0. Got `data.max_megapixels = {max_megapixels}`. Write e.g. 89."
        )


def refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that are no detection source's.

    Raises:
        Refusal: A name is not among the known ones.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise Refusal(f"`rows` should name detection sources. Got `rows` with {unknown}. Choose among {list(known)}.")


def given_train(train: Source | str | None) -> Source | str:
    """Return the classifier's training source if there is one.

    Raises:
        Refusal: There is none.
    """
    if train is None:
        raise Refusal(
            "`data.train` should name the classifier's training images. Got `data.train = None`. "
            "Give `data.train`, or give trained weights and use `detect` in place of `fit`."
        )
    return train
