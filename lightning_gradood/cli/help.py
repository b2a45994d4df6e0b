"""What `--help` says: our words for the verbs, and lists that a reader can take in."""

import re

ABOUT = "Train a classifier, probe it with gradients, and detect images unlike its training data."
VERBS = {
    "fit": "Train the classifier, then do what `detect` does; --detection null stops after the classifier.",
    "validate": "Loss and accuracy of the classifier on the part of its training images that is held out.",
    "test": "Loss and accuracy of the classifier on the normal images.",
    "predict": "Run the classifier on every source.",
    "extract": "Probe every source on all processes and keep the records.",
    "detect": "Extract what is missing, fit every detector on every anomaly source, report.",
    "benchmark": "Run several experiment files and seeds, write the paper's two tables and a page.",
}
_KNOWN = re.compile(r"known\s+subclasses:\s+([^()]+)\)")
_MANY = 40  # Lightning's callbacks are fewer; there are hundreds of modules
_LINE = "\n" + " " * 24


def shortened(text: str) -> str:
    """Cut lists of known subclasses that would fill screens, such as every `nn.Module`, down to our own.

    Args:
        text: a parser's formatted help.
    """
    return _KNOWN.sub(_cut, text)


def _cut(match: re.Match[str]) -> str:
    names = match.group(1).replace("\n", " ").replace(",", " ").split()
    if len(names) <= _MANY:
        return match.group()
    ours = [name for name in names if name.startswith("lightning_gradood.")]
    return f"known subclasses:{_LINE}{f',{_LINE}'.join([*ours, f'and {len(names) - len(ours)} others'])})"
