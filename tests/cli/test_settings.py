"""Wrong values of every key of the shipped experiment files: one sentence before the first step, or a value that is right.

Without SETTINGS a sample is tried; `SETTINGS=all` tries every case, in hours.
`python tests/cli/settings.py digits` tries those of one file, and groups the failures.
"""

import os
import random

import pytest
import settings
import tiny_archives
from settings import Case, as_it_is, verb_of, verdict

_SAMPLE = 12  # of each file
_ALL = os.environ.get("SETTINGS") == "all"


@pytest.fixture(scope="module")
def configurations(tmp_path_factory):
    """The resolved configuration of each experiment file that is asked for, with data sets in miniature."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        tiny_archives.accept_any_checksum(patch)
        tiny_archives.place_everything(data)
        tiny_archives.place_odin(data, "normal")
        yield lambda experiment: settings.resolved(experiment, data, verb_of(experiment))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory that is alone in its parent, so that what a run writes beside it is seen."""
    folder = tmp_path / "outer" / "place"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("experiment", settings.EXPERIMENTS if _ALL else ["digits", "cifar_resnet", "folders"])
def test_a_wrong_value_is_a_sentence_before_the_first_step(experiment, configurations, place):
    config = configurations(experiment)
    every, verb = settings.cases(experiment, config), verb_of(experiment)
    assert verdict(as_it_is(experiment, config), config, verb) == "accepted"
    settings.clear(place)
    failed = []
    for case in every if _ALL else random.Random(experiment).sample(every, _SAMPLE):
        try:
            verdict(case, config, verb)
        except AssertionError as error:
            failed.append(f"{case}: {error}")
        settings.clear(place)
    assert not failed, "\n".join(failed)


INIT = ("data", "init_args")
REFUSED = [
    (
        ("seed_everything",),
        2**32,
        "`seed_everything` should be at most 4294967295. Got `seed_everything = 4294967296`.",
    ),
    (("seed_everything",), -1, "`seed_everything` should be at least 0."),
    (("trainer",), -1, "`trainer` should hold settings. Got `trainer = -1`. Remove `trainer` for Lightning's defaults"),
    (("trainer",), "a\0b", "A file should have a name without NUL characters."),
    (("model",), None, "`model"),
    (("data",), None, "`data"),
    (("trainer", "devices"), 2**63, "`trainer.devices` should be at most 1024."),
    (("trainer", "num_nodes"), 2**63, "`trainer.num_nodes` should be at most 65536."),
    (("trainer", "max_epochs"), -1, "`trainer.max_epochs` should be a number of epochs where `scheduler` is given"),
    (("trainer", "max_epochs"), 0, "`trainer.max_epochs` should be at least 1."),
    (("run_dir",), "a\0b", "`run_dir` should be text without NUL characters. Got `run_dir = 'a\\x00b'`."),
    (("cache_dir",), "", "`cache_dir` should be the path of a folder. Got `cache_dir = ''`"),
    (("model", "init_args", "optimizer"), None, "`model.optimizer` should have a value. Got null."),
    (("model", "init_args", "scheduler", "init_args", "warmup"), 2.0, "`model.scheduler.warmup` should be at most 1."),
    (("model", "init_args", "label_smoothing"), float("nan"), "`model.label_smoothing` should be a finite number."),
    (
        ("model", "init_args", "network", "init_args", "num_classes"),
        2**63,
        "`model.network.num_classes` should be at most 1000000.",
    ),
    (
        (*INIT, "split"),
        [float("nan"), 0.5, 0.5],
        "`split` should be positive fractions that sum to 1. Got `split = [nan, ",
    ),
    ((*INIT, "batch_size"), None, "`data.batch_size` should have a value. Got null. Leave it out for its default."),
    ((*INIT, "num_workers"), 2**63, "`num_workers` should be at most 1024."),
    ((*INIT, "memory_limit_gib"), float("inf"), "`memory_limit_gib` should be a finite number."),
    ((*INIT, "normal", "init_args", "part"), None, "`data.normal.part` should have a value. Got null."),
    ((*INIT, "augment"), {}, "`data.augment` should be"),
    ((*INIT, "anomalies", "NAME"), "..", "Got `anomalies` with the name `..`. Rename that source."),
    ((*INIT, "anomalies", "NAME"), "/", "Got `anomalies` with the name `/`. Rename that source."),
    ((*INIT, "anomalies", "NAME"), "x" * 300, "of at most 100 letters"),
    (("detection", "mlp"), 2**63, "`detection.mlp` should hold settings. Got `detection.mlp = 9223372036854775808`."),
    (("detection", "mlp", "width"), 2**63, "`mlp.width` should be at most 65536."),
    (("detection", "mlp", "learning_rate"), float("nan"), "`mlp.learning_rate` should be a finite number above 0."),
    (("detection", "preset"), None, "`detection.preset` should have a value. Got null."),
    (("cache_dir",), None, "`cache_dir` should have a value. Got null. Leave it out for runs/.records."),
    (("detection", "seed"), 2**32, "`detection.seed` should be at most 4294967295."),
    (("detection", "resamples"), 2**63, "`detection.resamples` should be at most 1000000."),
    (("detection", "detectors"), [{"class_path": "KNN", "init_args": {"k": 1000}}], "at least 1000 images in `train`"),
    (("detection", "detectors"), [{"class_path": "LID", "init_args": {"neighbours": [900]}}], "at least 901 images"),
    (("detection", "detectors"), [{"class_path": "Energy", "init_args": {"name": "../x"}}], "without a slash"),
]


@pytest.mark.parametrize(
    ("key", "value", "words"), REFUSED, ids=[f"{key[-1]}={value!r:.20}" for key, value, _ in REFUSED]
)
def test_values_that_were_taken_are_refused_by_their_flag(key, value, words, configurations, place):
    assert words in verdict(Case("digits", key, value), configurations("digits"), "fit")
