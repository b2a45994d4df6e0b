"""`--trust`: which packages an experiment file may name classes of, where it comes from somebody else.

An experiment file is code: whatever class path it names is imported and called. The parser's own policy on imports decides, as it
alone knows when text has become a class path: in a nested file, by a short name, or by an interpolation.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jsonargparse import set_parsing_settings

from lightning_gradood.core import Refusal, distrusted, importing_only, may_import

OWN = (
    *(f"lightning_gradood.{room}" for room in ("data", "detectors", "evaluation", "gradients", "networks")),
    *(f"lightning_gradood.{room}" for room in ("perturbations", "probes", "report", "tasks", "trainer")),
    *(f"lightning.pytorch.{part}" for part in ("callbacks", "loggers", "profilers")),
    *("torch.nn", "torch.optim", "torchvision.models", "torchvision.transforms", "advertorch.attacks"),
    # data sets one by one: some of torchvision's unpickle files of the folder that they are given
    *("torchvision.datasets.CIFAR10", "torchvision.datasets.CIFAR100", "torchvision.datasets.cifar"),
    *("torchvision.datasets.SVHN", "torchvision.datasets.svhn", "pytorch_ood.dataset.img"),
    *("torch.dtype", *(f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype))),
)
"""What `--trust own` lets a file name: what the shipped files are made of."""

_FLAG, _ALONE = "--trust", "own"
_DENIED = re.compile(r"Importing '([^']+)' is not allowed, denied by")


def without_trust(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Take `--trust` out of a command line, as it is no key of an experiment file; return the other words and the packages named.

    >>> without_trust(["fit", "--trust", "my_package", "--config", "digits", "--trust=own"])
    (['fit', '--config', 'digits'], ['my_package', 'own'])
    """
    rest, named = list[str](), list[str]()
    left = iter(words)
    for word in left:
        option, sign, value = word.partition("=")
        if option != _FLAG:
            rest.append(word)
            continue
        value = value if sign else next(left, "")
        if not all(part.isidentifier() for part in value.split(".")) or value.partition(".")[0] == "jsonargparse":
            raise Refusal(
                f"`{_FLAG}` should name a package or module whose classes an experiment file may build. Got `{_FLAG} {value}`. "
                f"Write e.g. {_FLAG} my_package, or {_FLAG} own for those of lightning_gradood, torch and torchvision alone."
            )
        named.append(value)
    return rest, named or None


@contextmanager
def trusting(packages: Sequence[str] | None) -> Iterator[None]:
    """Let the parser import class paths of `OWN` and of these packages only; None lets it import whatever is named."""
    if packages is None:
        yield
        return
    from jsonargparse._common import parsing_settings  # there is no public way back from a policy

    before = dict(parsing_settings)
    allowed = (*OWN, *(name for name in packages if name != _ALONE))
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(allowed))
    try:
        with importing_only(allowed):
            yield
    finally:
        parsing_settings.update(before)


def distrusted_in(message: str) -> Refusal | None:
    """The refusal of a class path that is not trusted, from the parser's message; None if it says something else."""
    match = _DENIED.search(message)
    return distrusted(match[1]) if match and not may_import(match[1]) else None
