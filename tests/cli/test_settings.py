"""Any value by flag or file; wrong ones, and YAML that would explode, are refused where they are parsed; help."""

import json
import re
from pathlib import Path

import pytest
import yaml
from parsed import check, verdict
from tiny import FILE, printed, resolved

from lightning_gradood.cli.screens import keys_of
from lightning_gradood.cli.verbs import ALONE
from lightning_gradood.evaluation import DetectionSettings

ONLY_KNOWN = "should hold only keys that it knows."
MISSPELT = [
    (["--trainer.max_epoch", "3"], "Got `trainer.max_epoch`. Did you mean `trainer.max_epochs`?"),
    (["--model.wieghts", "x.pt"], f"`model` {ONLY_KNOWN} Got `wieghts`. Did you mean `weights`?"),
    (["--model.network.num_class", "4"], f"`model.network` {ONLY_KNOWN} Got `num_class`. Did"),
    (["--detection.mpl.width", "3"], "Got `mpl.width`. Did you mean `mlp.width`?"),
    (["--nothing.like.it", "3"], "Got `nothing.like.it`. Its keys are seed_everything, "),
    (["--model", "ClasificationTask"], "`model`: there is no class called ClasificationTask. Did you mean `Classif"),
    (["--trainer.callbacks", "[EarlyStoping]"], "called EarlyStoping. Did you mean `EarlyStopping`?"),
    (["--model.optimizer", "torch.optim.SDG"], "`model.optimizer`: there is no class called SDG. Did you mean `SGD`?"),
    (["--model.network", "resnet18"], "Did you mean `lightning_gradood.networks.resnet18`?"),
    (["--model.network", "lightning_gradod.resnet18"], "`model.network`: No module named 'lightning_gradod'"),
    (["--data.perturbations.attacks={a: {class_path: FSGM}}"], "there is no class called FSGM. Did you mean `FGSM`?"),
    (["--data.normal", "torchvision.datasets.CIFAR10", "--data.normal.rot", "x"], "`data.normal` should hold only keys"),
    (["--model.network", "timn.create_model"], "No module named 'timn'; correct the name, or python -m pip install timn"),
    (["--data.anomaly.x", "a"], f"`data` {ONLY_KNOWN} Got `anomaly.x`. Did you mean `anomalies`?"),
    (["--data.limits.image", "3"], "Got `limits.image`. Did you mean `limits.images`?"),  # and no abbreviation of it
    (["--model.network.blocks", "3"], "Got `blocks`. Its keys are blocks_per_stage, num_classes, channels."),
    (["--data.perturbations.attacks={a: {class_path: FGSM, init_args: {epsilon: 1}}}"], "Did you mean `eps`?"),
    (["--data.transform", "Resize"], "Did you mean `torchvision.transforms.v2.Resize`?"),
    (["--model.network", "torchvision.models.resnet19"], "there is no class called resnet19. Did you mean `resnet18`?"),
    (["--detection.preset", "no_anomaly"], "post_hoc. Got no_anomaly. Did you mean `no_anomalies`?"),
    (["stray"], "unrecognized arguments: stray."),
]  # fmt: skip
ABOVE, WHOLE, SEEDS = "a number above 0.", "a whole number.", "a number of at least 0 and below 4294967296."
OUT_OF_RANGE = {
    "data.batch_size=0": ABOVE, "data.batch_size=many": WHOLE, "data.limits.images=1.5": WHOLE,
    "data.num_workers=-1": "a number of at least 0.", "data.split.seed=-1": SEEDS, f"data.limits.seed={2**32}": SEEDS,
    "detection.mlp.learning_rate=0": ABOVE, "data.limits.memory_gib=inf": "a number of at least 0.",
    "detection.false_positive_rate=1": "a number above 0 and below 1.", "detection.false_positive_rate=.nan": "a number.",
    "detection.mlp.dropout=1": "a number of at least 0 and below 1.",
    "model.label_smoothing=1.5": "a number of at least 0 and at most 1.",
    "threads=0": "a number of at least 1 and at most 1024.",
}  # fmt: skip
WRONG = [
    *(
        ([f"--{key}={got}"], f"`{key}` should be {expected} Got {got}.")
        for (key, got), expected in ((one.split("="), words) for one, words in OUT_OF_RANGE.items())
    ),
    (["--cache_dir= "], "`cache_dir` should not be empty. Leave it out for the default."),
    (["--trainer.max_epochs", "many"], "`trainer.max_epochs` should be a whole number. Got many."),
    (["--data.split.fractions", "[0.5, 0.5]"], "`data.split.fractions`: Expected a tuple with 3 elements."),
    (["--data.perturbations.keep", "some"], "`data.perturbations.keep` should be one of all, successful. Got some."),
    (["--model.optimizer.lr", "0.1"], "`model.optimizer` should name a class, and then its arguments. Got `lr` alone."),
    (
        ["--model.optimizer", "Adam", "--model.optimizer.lr", "fast"],
        "`model.optimizer.lr` should be a number. Got fast.",
    ),
    (["--detection.detectors", "Energy"], "`detection.detectors` should be a list. Got Energy. Write [Energy]."),
    (
        ["--detection.detectors", "[{class_path: KNN, k: 3}]"],
        "arguments under `init_args`. Got lightning_gradood.detectors.D",
    ),
    (["--trainer.callbacks", "EarlyStopping"], "`trainer.callbacks.monitor` should be given."),
    *(
        ([f"--{key}", "None"], f"`{key}` should have a value. Got null.")
        for key in ("cache_dir", "trainer.accelerator", "data.batch_size", "detection.preset", "detection.detectors")
    ),
    (["--trainer", "null"], "`trainer` should hold settings. Got null."),
    (["--trainer.accumulate_grad_batches", "0"], "`trainer.accumulate_grad_batches` should be above 0."),
    (["--seed_everything", "-1"], "`seed_everything` should be a number of at least 0 and below 2**32. Got -1."),
]
IN_A_FILE = [
    ("trainer: {max_epoch: 3}", f"{ONLY_KNOWN} Got `trainer.max_epoch`. Did you mean `trainer.max_epochs`?"),
    ("detection: {mlp: {widht: 3}}", f"{ONLY_KNOWN} Got `widht`. Did you mean `mlp.width`?"),
    ("model: null", "`model` should be given. Got none. Name an experiment file, e.g. --config digits."),
    (
        "model: {init_args: {network: {init_args: {num_classes: null}}}}",
        "`model.network.num_classes` should have a value. Got null.",
    ),
    ("detection: {mlp: null}", "`detection.mlp` should hold settings. Got `detection.mlp = None`."),
    *(
        (f"data: {{init_args: {{{one}: null}}}}", f"Got `data.{one} = None`. L")
        for one in ("split", "limits", "perturbations")
    ),
    ("trainer: null", "`trainer` should hold settings. Got `trainer = None`. Leave it out for the defaults."),
    ("cache_dir: null", "`cache_dir` should have a value. Got null."),
]
INTERPOLATED = [
    ("${oc.env:SMOOTHING}", "should be a number of at least 0 and at most 1. Got 1.5."),
    ("${nowhere.key}", "Interpolation key '.nowhere.key' not found"),
    ("${dvi:8,255}", "Unsupported interpolation type dvi"),
    ("${oops", "no viable alternative at input '${oops'"),
]


def test_what_is_misspelt_out_of_range_or_null_is_named_by_its_key_with_the_nearest_spelling(monkeypatch):
    monkeypatch.setenv("SMOOTHING", "1.5")
    for number, (text, _) in enumerate(IN_A_FILE):
        Path(f"{number}.yaml").write_text(text)
    check([
        *MISSPELT,
        *WRONG,
        *((["--config", f"{number}.yaml"], words) for number, (_, words) in enumerate(IN_A_FILE)),
        *((["--model.label_smoothing", value], words) for value, words in INTERPOLATED),
    ])  # fmt: skip
    monkeypatch.setenv("SMOOTHING", "0.5")
    assert verdict("--model.label_smoothing", "${oc.env:SMOOTHING}").model.init_args.label_smoothing == 0.5


def test_null_takes_away_what_the_file_or_an_earlier_flag_has_set():
    for key, value in {"perturbations.attacks": "paper", "limits.images": "7", "limits.sources": "{normal: 9}"}.items():
        found = [verdict(f"--data.{key}", value), verdict(f"--data.{key}", value, f"--data.{key}", "null")]
        assert [one.data.init_args.get(key) is None for one in found] == [False, True], key
    for key in ("model.weights", "model.scheduler", "data.keep_pixels", "data.classes", "detection.guard", "run_dir"):
        section, _, name = key.rpartition(".")
        found = verdict(f"--{key}", "None")  # as W&B's agent spells it
        found = found if section in ("", "detection") else found[section].init_args
        assert (found.detection if section == "detection" else found)[name] is None, key
    assert verdict("--seed_everything", "None").seed_everything is None
    Path("more.yaml").write_text("seed_everything: null\ndetection: null\nrun_dir: null")
    found = verdict("--config", "more.yaml")
    assert (found.seed_everything, found.detection, found.run_dir) == (None, None, None)


def test_detectors_of_pytorch_ood_stand_beside_ours_by_their_own_class_paths():
    room = "pytorch_ood.detector"
    values = [{"class_path": f"{room}.OpenMax", "init_args": {"tailsize": 20}}, "Energy", f"{room}.MaxLogit"]
    found = verdict("--detection.detectors", json.dumps(values)).detection.detectors
    assert [one.class_path.rpartition(".")[2] for one in found] == ["PytorchOOD", "Energy", "PytorchOOD"]
    assert (found[0].init_args.detector, found[0].init_args.settings) == (f"{room}.OpenMax", {"tailsize": 20})
    Path("theirs.yaml").write_text(f"detection: {{detectors: {json.dumps(values[:1])}}}")
    (one,) = verdict("--config", "theirs.yaml").detection.detectors
    assert one.init_args.settings == {"tailsize": 20}


def test_every_detector_of_ours_that_needs_no_settings_is_given_by_its_name():
    names = [type(one).__name__ for one in DetectionSettings(preset="post_hoc").build()]
    found = verdict("--detection.detectors", json.dumps(names[1:])).detection.detectors
    assert [one.class_path.rpartition(".")[2] for one in found] == names[1:]


LAUGHS = "\n".join(
    ["a0: &a0 [lol, lol, lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
)
FLOW = f"{{{', '.join(LAUGHS.splitlines())}}}"


@pytest.mark.timeout(120)  # without the limits these take hours
def test_values_and_files_that_explode_or_that_yaml_cannot_convert_are_refused():
    values = ["trainer.max_epochs", "trainer.callbacks", "model", "data.anomalies", "model.network", "config"]
    odd = ["!!int ''", "!!bool x", "!!timestamp x", "1" * 5000, "2001-99-99", "!!python/name:os.system"]
    rows = [([f"--{flag}", FLOW], "its aliases expanded") for flag in values]
    rows += [(["--data.anomalies", "[" * 10**5], "nested more than 64 deep")]
    rows += [(["--data.split.fractions", text], "") for text in odd]
    check(rows)
    assert not [text for text in odd if not isinstance(verdict("--data.split.fractions", text), str)]
    with open("huge.yaml", "wb") as file:
        file.truncate(400_000_000)
    Path("laughs.yaml").write_text(LAUGHS)
    Path("deep.yaml").write_text("[" * 10**5)
    Path("text.yaml").write_bytes("\ud8ff".encode("utf-16", "surrogatepass"))
    for name in ("laughs.yaml", "deep.yaml", "huge.yaml", "text.yaml"):
        message = verdict("--config", name)
        assert message.startswith(f"`config` should be a YAML file. Got `config = {name}`, "), message
        for flag in ("--detection", "--data", "--trainer.callbacks", "--model"):
            assert len(verdict(flag, name)) < 400, (flag, name)


VERBS = ["fit", "validate", "test", "predict", "extract", "detect", "benchmark"]
FLAGS = {
    "seed_everything": ("seed_everything", 3),
    "model.network.num_classes": ("model.init_args.network.init_args.num_classes", 4),
    "model.normalize": ("model.init_args.normalize", {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}),
    "model.optimizer": ("model.init_args.optimizer.class_path", "torch.optim.AdamW"),
    "data.anomalies.photographs.scale": ("data.init_args.anomalies.photographs.init_args.scale", 0.5),
    "data.anomalies.mine": ("data.init_args.anomalies.mine", "my/folder"),
    "data.split.fractions": ("data.init_args.split.fractions", [0.5, 0.3, 0.2]),
    "detection.mlp.dropout": ("detection.mlp.dropout", 0.5),
}
HELP = [  # what a reader looks for
    (["benchmark"], ["--config", "--experiments", "--seeds", "--detectors", "--run_dir", "--cache_dir", "--tables.near"]),
    (["fit"], ["--trainer.max_epochs ", "--model ", "--data ", "--detection ", "--run_dir ", "--cache_dir ", "--ckpt_path ",
               "an earlier one of the same experiment is continued"]),
    (["fit", "--model.help", "ClassificationTask"],
     ["--model.network", "--model.weights WEIGHTS", "file with initial weights"]),
    (["fit", "--data.help", "ImageDataModule"],
     ["--data.normal NORMAL", "--data.split.seed", "FolderSource", "default: 64"]),
    (["fit", "--detection.help"], ["--detection.mlp.width WIDTH", "--detection.label_designs", "Predicted"]),
]  # fmt: skip


def at(config, path):
    for key in path.split("."):
        config = config[key]
    return config


def test_any_value_is_a_flag_and_what_is_printed_can_be_run_again(capsys):
    flags = [f"--{flag}={value if isinstance(value, str) else json.dumps(value)}" for flag, (_, value) in FLAGS.items()]
    text = printed(["detect", *FILE, *flags, "--print_config"], capsys)
    config = yaml.safe_load(text)
    wrong = {flag: at(config, path) for flag, (path, value) in FLAGS.items() if at(config, path) != value}
    assert wrong == {}
    Path("printed.yaml").write_text(text)
    assert resolved(["detect", "--config", "printed.yaml"], capsys) == config


def test_interpolation_reaches_across_files_and_follows_overrides(capsys, monkeypatch):
    Path("more.yaml").write_text(
        "data: {init_args: {probe_batch_size: '${data.init_args.batch_size}', limits: {images: '${detection.mlp.width}'}}}\n"
        "model: {init_args: {label_smoothing: '${div:8,255}', weights: '${oc.env:WEIGHTS_DIR,somewhere}/net.pt'}}\n"
        "detection: {mlp: {learning_rate: 0.5}}"
    )
    keys = ["data.init_args.probe_batch_size", "data.init_args.limits.images", "model.init_args.weights"]
    files = ["fit", *FILE, "--config", "more.yaml"]
    config = resolved(files, capsys)
    assert [at(config, key) for key in keys] == [64, 128, "somewhere/net.pt"]  # 128 is a default that no file names
    assert config["model"]["init_args"]["label_smoothing"] == 8 / 255
    monkeypatch.setenv("WEIGHTS_DIR", "here")
    config = resolved([*files, "--data.batch_size", "7", "--detection.mlp.width=9"], capsys)
    assert [at(config, key) for key in keys] == [7, 9, "here/net.pt"]
    assert config["detection"]["mlp"] == config["detection"]["mlp"] | {"learning_rate": 0.5, "max_epochs": 3}


def test_help_names_every_verb_and_what_a_reader_needs_on_a_few_screens(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = printed(["--help"], capsys)
    assert text.startswith("usage: python -m lightning_gradood ")
    assert [verb for verb in VERBS if not re.search(rf"^    {verb} +[A-Z].*\.$", text, re.MULTILINE)] == []
    for words, expected in HELP:
        text = printed(words if len(words) > 1 else [*words, "--help", "all"], capsys)
        assert [word for word in expected if word not in re.sub(r"\s+", " ", text)] == []
        if len(words) > 1:
            assert len(text.splitlines()) < 180, "hundreds of known subclasses hide what a reader looks for"
            assert all(len(line) <= 130 for line in text.splitlines())


def test_help_of_a_verb_is_one_screen_of_flags_and_choices_that_exist(capsys):
    for verb in [*VERBS, *ALONE]:
        text = printed([verb, "--help"], capsys)
        assert len(text.splitlines()) <= 60, verb
        assert verb in ALONE or [line for line in text.splitlines() if len(line) > 85] == []
    text, keys = printed(["fit", "-h"], capsys), [key for key in keys_of("fit") if not key.endswith("ARGUMENT")]
    own = [key for key in keys if key not in ("trust", "config", "print_config")]
    assert [key for key in own if ONLY_KNOWN in str(verdict(f"--{key.replace('NAME', 'x')}", "1"))] == []
    for key in ("detection.preset", "detection.budget", "detection.protocol", "data.perturbations.attacks"):
        (choices,) = re.findall(r"one of (.*)\. Got", verdict(f"--{key}", "another"))
        assert [one for one in choices.split(", ") if one not in text] == [], key
    assert printed(["help", "fit"], capsys) == text
    assert keys_of("benchmark")[0] in printed(["benchmark", "--help", "all"], capsys)
