"""Help of the verbs with an experiment, one screen each, and flags that none of them has; nothing heavy is imported."""

from collections.abc import Iterable

from lightning_gradood.cli.plain import key_hint
from lightning_gradood.cli.verbs import VERBS

FLAGS = {
    "Files": {
        "config FILE": "or the name of one that `configs` lists",
        "run_dir FOLDER": "of the run; by default a new one below runs/",
        "cache_dir FOLDER": "records, for later runs; runs/.records",
        "ckpt_path FILE": "checkpoint; by default the best of the run",
        "trust PACKAGE": "build only classes of this package, or `own`",
        "print_config": "print the settings, and run nothing",
    },
    "Images: a folder, or a class path whose arguments stand behind further dots": {
        "data.normal FOLDER": "like the training images, unseen in training",
        "data.anomalies.NAME FOLDER": "unlike them; as many names as you like",
        "data.train FOLDER": "the classifier's training images",
        "data.transform CLASS": "e.g. torchvision.transforms.v2.CenterCrop",
        "data.transform.ARGUMENT VALUE": "e.g. --data.transform.size 224",
        "data.perturbations.attacks SET": "attacks on them: paper, modern or pilot",
        "data.limits.images N": "at most N of each source",
        "data.batch_size N": "images in a batch of training",
        "data.probe_batch_size N": "images that are probed together",
        "data.num_workers N": "processes that decode images",
    },
    "Classifier": {
        "model.network CLASS": "torchvision.models.resnet50, my_package.Net",
        "model.network.ARGUMENT VALUE": "e.g. --model.network.num_classes 10",
        "model.weights FILE": "state dict, checkpoint or safetensors",
        "model.weights_prefix NAME": "which of several networks in that file",
        "model.normalize.mean LIST": "of each channel; .std alike",
    },
    "Training": {
        "trainer.max_epochs N": "passes over the training images",
        "model.optimizer CLASS": "e.g. SGD; then --model.optimizer.lr 0.1",
        "model.scheduler CLASS": "e.g. OneCycle",
    },
    "Detection; --detection null stops `fit` before it": {
        "detection.preset NAME": "paper, no_anomalies, one_pass or post_hoc",
        "detection.detectors LIST": "further ones, e.g. [Energy, KNN]",
        "detection.label_designs LIST": "confounding labels: [AllOnes, Uniform]",
        "detection.budget NAME": "images to read: quick, standard or thorough",
        "detection.protocol NAME": "known, leave_one_out, cross or openood",
        "detection.false_positive_rate P": "share of normal images that may be flagged",
        "detection.guard NAME": "the detector that guards new images",
    },
    "Machine": {
        "trainer.accelerator NAME": "cpu, gpu, ...; by default what there is",
        "trainer.devices N": "processes, one on each GPU",
        "trainer.logger CLASS": "e.g. WandbLogger",
        "threads N": "of each process on a CPU",
        "seed_everything N": "for training; the splits: --data.split.seed",
    },
}
"""Sections of flags that people use, each with what stands behind it and a line on it."""

BENCHMARK = {
    "Settings; most stand in the file": {
        "config FILE": "or the name of a shipped one: tables_digits",
        "experiments MAPPING": "config, dataset, network and flags, by name",
        "seeds LIST": "of splits and detectors, e.g. [0, 1, 2]",
        "detectors LIST": "beside the MLP, e.g. [Energy, KNN]",
        "run_dir FOLDER": "of runs and tables; below runs/benchmarks",
        "cache_dir FOLDER": "records, for later runs; runs/.records",
        "tables.near SOURCE": "whose image is the near one of Figure 1",
        "tables.far SOURCE": "whose image is the far one",
        "trust PACKAGE": "build only classes of this package, or `own`",
        "print_config": "print the settings, and run nothing",
    }
}
_OTHERS = {"help", "logging", "report"}  # first parts of further flags
_WITHOUT = {  # sections that a verb has no use for
    **dict.fromkeys(("validate", "test", "predict"), ("Training", "Detection; --detection null stops `fit` before it")),
    **dict.fromkeys(("extract", "detect"), ("Training",)),
}
_MORE = """
Every key of a file is a flag. `--data.help ImageDataModule`, `--detection.help` and
`--model.help ClassificationTask` explain those of a part; `--help all` lists all.
"""


def screen(verb: str) -> str:
    """Help of a verb with an experiment."""
    sections = BENCHMARK if verb == "benchmark" else FLAGS
    lines = [f"usage: python -m lightning_gradood {verb} --config FILE [--key value ...]", "", VERBS[verb]]
    for title, flags in sections.items():
        if title not in _WITHOUT.get(verb, ()):
            lines += ["", f"{title}:", *(f"  --{flag:<31} {text}".rstrip() for flag, text in flags.items())]
    return "\n".join([*lines, _MORE if sections is FLAGS else ""])


def keys_of(verb: str) -> list[str]:
    """Keys of the flags on a verb's screen."""
    return [flag.split()[0] for flags in (BENCHMARK if verb == "benchmark" else FLAGS).values() for flag in flags]


def wrong_flag(verb: str, words: Iterable[str]) -> str:
    """Say which flag has no value behind it, or a first part that a verb with an experiment does not know."""
    keys = keys_of(verb)
    known, waiting = {key.partition(".")[0] for key in keys} | _OTHERS, ""
    for word in (*words, "--help"):
        if not word.startswith("--") or word == "--":
            waiting = ""
            continue
        if waiting:
            return f"`{waiting}` should be given with a value. Got none. Write it behind, or remove the flag."
        key, sign, _ = word[2:].partition("=")
        if key.partition(".")[0].rstrip("+") not in known:
            return f"The configuration should hold only keys that it knows. Got `{key}`. {key_hint(key, keys)}"
        waiting = "" if sign or key.split(".")[-1] in ("help", "print_config", "trust") else key
    return ""
