"""The verbs of the program and its overview; nothing heavy is imported here, so that `--help` answers at once."""

ABOUT = "Train a classifier, probe it with gradients, and detect images unlike its training data."
VERBS = {
    "fit": "Train the classifier, then do what `detect` does; --detection null stops after the classifier.",
    "validate": "Loss and accuracy of the classifier on the part of its training images that is held out.",
    "test": "Loss and accuracy of the classifier on the normal images.",
    "predict": "Run the classifier on every source and write its predictions.",
    "extract": "Probe every source on all processes and keep the records.",
    "detect": "Extract what is missing, fit every detector on every anomaly source, report.",
    "score": "Score image files or folders with a guard that `detect` has saved.",
    "drift": "Compare the scores of new images with those of images as usual.",
    "compare": "Put the results of several runs side by side on one page.",
    "configs": "List the experiment files and sweeps that come with the package, and copy them.",
    "dashboard": "Save a workspace and a report in W&B that show the runs of a project.",
    "benchmark": "Run several experiment files and seeds, write the paper's two tables and a page.",
}

ALONE = ("score", "drift", "compare", "configs", "dashboard")
"""Verbs without an experiment, each in a module of its name."""


def overview() -> str:
    """Text of `--help` without a verb."""
    width = max(map(len, VERBS)) + 4
    lines = [f"    {verb:<{width}}{text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: python -m lightning_gradood VERB --config FILE [--any.key value ...]   (or `gradood VERB ...`)",
            "",
            ABOUT,
            "",
            "verbs:",
            *lines,
            "",
            "`python -m lightning_gradood VERB --help` lists the flags of a verb, `--data.help ImageDataModule` those of a",
            "class. VERB --config FILE --print_config prints the configuration with all files and flags applied.",
            "An experiment file is code. VERB --trust own --config FILE builds classes of lightning_gradood, torch and",
            "torchvision alone, --trust PACKAGE those of another package as well: for files from others.",
        ]
    )
