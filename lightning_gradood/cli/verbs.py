"""The verbs of the program, its overview and how it ends; nothing heavy is imported, so that `--help` answers at once."""

import signal

ABOUT = "Train a classifier, probe it with gradients, and detect images unlike its training data."
VERBS = {
    "fit": "Train the classifier, then do what `detect` does.",
    "validate": "Loss and accuracy of the classifier on held-out training images.",
    "test": "Loss and accuracy of the classifier on the normal images.",
    "predict": "Run the classifier on every source and write its predictions.",
    "extract": "Probe every source on all processes and keep the records.",
    "detect": "Extract what is missing, fit every detector on every anomaly source, report.",
    "score": "Score image files or folders with a guard that `detect` has saved.",
    "serve": "Answer requests over HTTP with a guard: images in, verdicts out.",
    "export": "Write a guard as one ONNX file, which needs no torch.",
    "refit": "Make a guard that knows what a person has marked among the images of `score --triage`.",
    "attack": "Attack a guard's classifier and detector at once, and say what may be relied on.",
    "drift": "Compare the scores of new images with those of usual images.",
    "compare": "Put the results of several runs side by side on one page.",
    "configs": "List the experiment files and sweeps that come with the package, and copy them.",
    "dashboard": "Save a workspace and a report in W&B that show the runs of a project.",
    "benchmark": "Run several experiment files and seeds, write the paper's two tables and a page.",
}
ALONE = ("score", "serve", "export", "refit", "attack", "drift", "compare", "configs", "dashboard")
"""Verbs without an experiment, each a function in a module of its name."""

_LINES = "\n".join(f"    {verb:<13}{text}" for verb, text in VERBS.items())
OVERVIEW = f"""\
usage: python -m lightning_gradood VERB --config FILE [--any.key value ...]   (or `gradood VERB ...`)

{ABOUT}

verbs:
{_LINES}

`python -m lightning_gradood VERB --help` lists the flags of a verb, `--data.help ImageDataModule` those of a
class. VERB --config FILE --print_config prints the configuration with all files and flags applied.
An experiment file is code. VERB --trust own --config FILE builds classes of lightning_gradood, torch and
torchvision alone, --trust PACKAGE those of another package as well: for files from others.
"""


class Ended(SystemExit):
    """The program ends with an exit code, and with a sentence on standard error."""

    def __init__(self, sentence: str, exit_code: int = 2) -> None:
        super().__init__(exit_code)
        self.sentence, self.exit_code = sentence, exit_code


class Stopped(Ended):
    """The process was asked to end by a signal."""

    def __init__(self, number: int) -> None:
        self.signal, code = signal.Signals(number).name, 143 if number == signal.SIGUSR1 else 128 + number
        super().__init__(f"stopped by {self.signal}. No file was written.", code)
