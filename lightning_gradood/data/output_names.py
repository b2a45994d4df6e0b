"""Names of a network's outputs, and labels of sources as indices into them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gradood.core import Refusal, Unparsable, did_you_mean, read_text, read_yaml
from lightning_gradood.data.loading import LoadedSource
from lightning_gradood.data.source import Listing, class_order
from lightning_gradood.records import NORMAL


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network by name, in their order.

    Examples:
        >>> outputs = Outputs.of(["cat", "great white shark"])
        >>> outputs.index("great_white_shark"), outputs.index("cow")
        (1, None)
    """

    names: list[str]  # for tables and pages
    aliases: list[tuple[str, ...]]  # names by which class folders may call each output

    @classmethod
    def of(cls, names: Sequence[str | int | Sequence[str]]) -> "Outputs":
        """Take one name for each output, or several, of which the last is shown."""
        aliases = [(str(name),) if isinstance(name, str | int) else tuple(map(str, name)) for name in names]
        return cls([several[-1] for several in aliases], aliases)

    @classmethod
    def read(cls, given: Sequence[str | int] | str | int) -> "Outputs":
        """Take a list of names in the order of the outputs, the file that holds one, or how many outputs have numbers.

        The file has one name in each line, or JSON or YAML: a list, or a dict from index to name, or to several names,
        as ImageNet's `imagenet_class_index.json`.
        """
        if isinstance(given, int):
            return cls.of([(str(place).zfill(len(str(given - 1))), str(place)) for place in range(given)])
        found, reason = _from_file(Path(given).expanduser()) if isinstance(given, str) else (list(given), "")
        if isinstance(found, Mapping):
            found = [found.get(place, found.get(str(place))) for place in range(len(found))]
        if not found or not isinstance(found, list) or not all(map(_is_name, found)):
            raise Refusal(
                f"`data.classes` should be a list of names, or a file of them. Got `data.classes = {given}`, "
                f"{reason or 'which holds no such list'}. Name the network's outputs in their order, one in each line of a "
                "file, or as a list in JSON or YAML."
            )
        return cls.of(found)

    def index(self, name: str) -> int | None:
        """The output of a name, exact matches before those without regard to case, `_` and `-`.

        None for a name that is not there, or that several outputs share.
        """
        for form in (str, _loosely):
            found = [place for place, several in enumerate(self.aliases) if form(name) in map(form, several)]
            if found:
                return found[0] if len(found) == 1 else None
        return None


def _loosely(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).casefold().strip()


def _is_name(found: Any) -> bool:
    return isinstance(found, str | int) or (
        isinstance(found, list) and found != [] and all(isinstance(one, str) for one in found)
    )


def _from_file(file: Path) -> tuple[Any, str]:
    """What a file holds, or why it holds nothing."""
    try:
        text = read_text(file)
        if file.suffix.lower() in (".json", ".yaml", ".yml") or text.lstrip()[:1] in ("[", "{"):
            return read_yaml(file), ""  # JSON is YAML
    except (OSError, Unparsable) as error:
        return None, f"which cannot be read ({getattr(error, 'strerror', None) or error}; looked at {file.absolute()})"
    return [line.strip() for line in text.splitlines() if line.strip()], ""


def relabelled(name: str, listing: Listing, outputs: Outputs, flag: str) -> Listing:
    """Make the labels of a source indices into the outputs, by the names of its classes; `flag` says who named these."""
    places = {known: place for known in listing.classes if (place := outputs.index(known)) is not None}
    for unknown in (known for known in listing.classes if known not in places):
        near = did_you_mean(unknown, [alias for several in outputs.aliases for alias in several])
        shown = ", ".join(outputs.names[:10]) + (", …" if len(outputs.names) > 10 else "")
        raise Refusal(
            f"`{name}` should have the classes of `{flag}` ({len(outputs.names)}: {shown}). Got `{name}` with class "
            f"`{unknown}`. Rename its class folders, or give its images in a flat folder, without classes. {near}".rstrip()
        )
    names = listing.classes
    if not names and max(listing.labels) >= len(outputs.names):
        key = listing.keys[listing.labels.index(max(listing.labels))]
        raise Refusal(
            f"`{name}` should have labels below {len(outputs.names)}, the number of outputs that `{flag}` names. Got "
            f"`{name}` with label {max(listing.labels)} of `{key}`. Name all outputs, or give the list that belongs to them."
        )
    labels = [places[names[label]] if 0 <= label < len(names) else label for label in listing.labels]
    return dataclasses.replace(listing, labels=labels, classes=outputs.names)


_ONE_LOGIT = (
    "The network has one output, z: it is taken for a binary classifier in which sigmoid(z) is the probability of the second "
    "class, and read as one with the logits [0, z]."
)
_NAME_THEM = (
    "Name the network's outputs in their order with --data.classes (a list, or a file with a name in each line)"
)


def fit_to_outputs(source: LoadedSource, outputs: int, named: Outputs | None) -> list[str]:
    """Leave out labels of normal images that cannot be told to be certain outputs of the network.

    `source` holds the training images, whose classes are the network's first outputs, or else the normal images; a
    single output tells two classes apart. Returns sentences about what was decided and could have been meant otherwise.
    """
    notes, outputs = [_ONE_LOGIT] if outputs == 1 else [], max(outputs, 2)
    classes, plain = source.classes, sorted(source.classes)
    if named is not None:
        if len(named.names) != outputs:
            raise Refusal(
                f"`data.classes` should name all {outputs} outputs of the network, in their order. Got {len(named.names)} "
                "names. Give the list that the network was trained with, or leave it out."
            )
        return notes
    if 0 < len(classes) < outputs and source.name == NORMAL:
        source.forget_classes()
        shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
        return [
            *notes,
            f"The network has {outputs} outputs and `normal` {len(classes)} classes ({shown}): which outputs these are is "
            "not known, so labels are left out, and the classifier's own predictions stand in their place. "
            f"{_NAME_THEM} to use them.",
        ]
    if classes != plain and classes == class_order(classes):
        notes.append(
            f"The classes of `{source.name}` are in the order of their numbers, {', '.join(classes[:3])}, …, {classes[-1]}; "
            f"torchvision's ImageFolder has {', '.join(plain[:3])}, …. {_NAME_THEM} if they have another."
        )
    if 0 < len(classes) < outputs:
        notes.append(
            f"The network has {outputs} outputs and `{source.name}` {len(classes)} classes, which are taken for its first "
            f"{len(classes)} outputs. {_NAME_THEM} if they are others."
        )
    return notes
