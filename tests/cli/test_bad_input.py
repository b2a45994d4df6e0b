"""Bad input: one sentence that names the key or file and the fix, exit code 2, nothing on disk touched."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lightning.pytorch  # noqa: F401  # its log handler keeps the stream that it first meets
import pytest
import tiny
import torch
from bad_inputs import write_bad_inputs
from tiny import FILE, refused, snapshot

from lightning_gradood.cli import main

FIT, DETECT = ["fit", *FILE], ["detect", *FILE, "--ckpt_path", "good.pt"]
NETWORK = "--model.init_args.network.init_args"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_bad_inputs(folder, tiny.CONFIG)
    return folder


@pytest.fixture(autouse=True)
def here(inputs, workplace):
    shutil.copytree(inputs, workplace, dirs_exist_ok=True)


def untouched(arguments, capsys):
    """The sentence of a refusal that must leave no file changed, gone or new."""
    before = snapshot(Path("."))
    message = refused(arguments, capsys)
    assert snapshot(Path(".")) == before
    assert not Path("executed").exists()
    return message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trainer.max_epoch", "3"], "--trainer.max_epoch 3. Did you mean `max_epochs`?"),
        (["--model.wieghts", "x.pt"], "`model`: Option 'wieghts' is not accepted. Did you mean `weights`?"),
        (["--model.init_args.wieghts", "x.pt"], "'wieghts' is not accepted. Did you mean `weights`?"),
        (
            [f"{NETWORK}.num_class", "4"],
            "`model.network`: Option 'num_class' is not accepted. Did you mean `num_classes`?",
        ),
        (["--data.batch_sise", "3"], "`data`: Option 'batch_sise' is not accepted. Did you mean `batch_size`?"),
        (["--detection.mlp.widht", "3"], "`detection`: unrecognized arguments: --mlp.widht=3. Did you mean `width`?"),
        (["--detection.mpl.width", "3"], "--mpl.width=3. Did you mean `mlp`?"),
        (["--run_dri", "x"], "--run_dri x. Did you mean `run_dir`?"),
        (["--model", "ClasificationTask"], "`model`: there is no class called ClasificationTask. Did you mean `Clas"),
        (
            ["--data", "ImageDatamodule"],
            "`data`: there is no class called ImageDatamodule. Did you mean `ImageDataModule`?",
        ),
        (
            ["--data.normal", "{class_path: DigitSource}"],
            "`data.normal`: there is no class called DigitSource. Did you",
        ),
        (["--trainer.logger", "WandbLoger"], "no class called WandbLoger. Did you mean `WandbLogger`?"),
        (["--trainer.callbacks", "[EarlyStoping]"], "no class called EarlyStoping. Did you mean `EarlyStopping`?"),
        (
            ["--detection.label_designs", "[AllOne]"],
            "`detection.label_designs`: there is no class called AllOne. Did you",
        ),
        (
            ["--model.optimizer", "torch.optim.SDG"],
            "'torch.optim' has no attribute 'SDG'. Got value: torch.optim.SDG. Did",
        ),
        (
            ["--model.network", "lightning_gradood.networks.resnet81"],
            "has no attribute 'resnet81'. Did you mean `resnet18`?",
        ),
        (["--model.network", "resnet18"], "called resnet18. Did you mean `lightning_gradood.networks.resnet18`?"),
        (["--model.network", "lightning_gradod.resnet18"], "`model.network`: No module named 'lightning_gradod'."),
        (["stray"], "unrecognized arguments: stray."),
        (
            ["--data.anomalies.my.photos", "photos"],
            "`data.anomalies`: Each name should have a folder or a source with its class_path. Got a name without one. A name "
            "with a dot is given in braces, e.g. --data.anomalies '{my.photos: photos/mine}'.",
        ),
    ],
)
def test_what_is_misspelt_is_named_with_the_nearest_spelling(flags, words, capsys):
    message = untouched([*FIT, *flags], capsys)
    assert words in message
    assert message.count("Did you mean") <= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trainer.max_epochs", "many"], "`trainer.max_epochs`: Expected an int. Got `many`."),
        (["--data.batch_size", "many"], "`data.batch_size`: Expected an int. Got value: many."),
        (["--detection.mlp.width", "wide"], "`detection.mlp.width`: Expected an int. Got value: wide."),
        (["--model.channels_last", "maybe"], "`model.channels_last`: Expected a bool. Got value: maybe."),
        (["--data.split", "[0.5, 0.5]"], "`data.split`: Expected a tuple with 3 elements. Got value: [0.5, 0.5]."),
        (["--detection.mlp.width", "0"], "`mlp.width` should be at least 1. Got `mlp.width = 0`."),
        (["--detection.resamples", "0"], "`detection.resamples` should be at least 1."),
        (["--detection.label_designs", "[]"], "`detection.label_designs` should name at least one label design."),
        (["--data.batch_size", "0"], "`batch_size` should be at least 1. Got `batch_size = 0`."),
        (
            ["--data.train.init_args.digits", "[11]"],
            "`digits` should be one or more of 0 … 9, each once. Got `digits = [11]`",
        ),
        (["--trainer.accelerator", "abacus"], "`trainer` should hold settings that work on this machine. Got: "),
        (["--trainer.devices", "0"], "`trainer` should hold settings that work on this machine. Got: "),
    ],
)
def test_values_of_the_wrong_type_or_range_are_refused(flags, words, capsys):
    assert words in untouched([*FIT, *flags], capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [],
            "A verb should come first. Got none. Write e.g. `fit` with an experiment file, e.g. `--config configs/digits",
        ),
        (
            ["trian", *FILE],
            "A verb should be one of fit, validate, test, predict, extract, detect, score, drift, ",
        ),
        (["fit"], "`model` and `data` should be given. Name an experiment file, e.g. `--config configs/digits.yaml`."),
        (["fit", "--config"], "--config: expected one argument"),
        (["fit", "--config", "nowhere.yaml"], "Got `--config nowhere.yaml`, which does not exist (looked at /"),
        (["detct", *FILE], "Got `detct`. Did you mean `detect`?"),
        (["fit", "--config", "images"], "`config`: Path is not a file: "),
        (["fit", "--config", "no_text.yaml"], "`config` should be a YAML file. Got `config = no_text.yaml`"),
        (
            ["fit", "--config", "no_yaml.yaml"],
            "The configuration file should be YAML. Got: while parsing a flow mapping",
        ),
        (["fit", "--config", "no_class.yaml"], "`model.network`: Option '"),
        (["fit", "--config", "no_normal.yaml"], "`data`: the following arguments are required: normal."),
    ],
)
def test_a_missing_verb_or_experiment_file_is_asked_for(arguments, words, capsys):
    assert words in untouched(arguments, capsys)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("${nowhere.key}", "Interpolation key '.nowhere.key' not found"),
        ("${oc.env:NOT_A_VARIABLE}", "Environment variable 'NOT_A_VARIABLE' not found"),
        ("${dvi:8,255}", "Unsupported interpolation type dvi"),
        ("${div:8,0}", "division by zero"),
        ("${oops", "no viable alternative at input '${oops'"),
    ],
)
def test_broken_interpolation_is_refused_with_its_key(value, words, capsys):
    message = untouched([*FIT, "--model.label_smoothing", value], capsys)
    assert "Got at `fit.model.init_args.label_smoothing`: " in message
    assert words in message
    assert message.endswith("give a default as in ${oc.env:NAME,default}.")


@pytest.mark.parametrize("verb", [FIT, DETECT], ids=["fit", "detect"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.normal", "nowhere"], "Got `data.normal = nowhere`, which does not exist (looked at /"),
        (
            ["--data.anomalies.nine", "nowhere"],
            "Got `data.anomalies.nine = nowhere`, which does not exist (looked at /",
        ),
        (["--data.anomalies.nine", "tiny.yaml"], "Got `data.anomalies.nine = tiny.yaml`, which is not a folder"),
        (["--data.anomalies.nine", "empty"], "Got `data.anomalies.nine = empty` with none (looked at /"),
        (["--data.anomalies.nine", "two"], "`nine` should have at least 3 images, to fill every split"),
        (["--data.anomalies.mean", "images"], "Got `anomalies` with the name `mean`. Rename that source."),
        (["--trainer.limit_predict_batches", "2"], "`trainer.limit_predict_batches` should be 1.0"),
        (["--trainer.precision", "bf16-true"], "`trainer.precision` should leave the weights in float32"),
        (
            ["--detection.false_positive_rate", "5"],
            "`detection.false_positive_rate` should be between 0 and 1, e.g. 0.05.",
        ),
        (
            ["--detection.detectors", "[GradientGaussian]", "--detection.false_positive_rate", "0.001"],
            "`data.normal` should have at least 999 images in `val` for `detection.false_positive_rate = 0.001`. Got ",
        ),
    ],
)
def test_what_stage_two_would_fail_on_is_refused_before_anything_is_done(verb, flags, words, capsys):
    assert words in untouched([*verb, *flags], capsys)


@pytest.mark.parametrize("verb", ["fit", "detect"])
@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            "CifarResNet(1, 3, channels=1)",
            "to have 1 channels, but got 3 channels instead. Give `data.transform` a resize or",
        ),
        (
            "Sequential(Flatten(), Linear(3 * 32 * 32, 3))",
            "(2x192 and 3072x3). Give `data.transform` a resize or channel",
        ),
        (
            "Conv2d(3, 3, 3)",
            "should be logits [N, classes], a row for each image. Got `output = [2, 3, 6, 6]`",
        ),
        (
            "CifarResNet(1, 2)",
            "should have at least as many outputs as the data have classes, 3. Got 2 outputs. Of a trained network, give",
        ),
    ],
)
def test_a_network_that_does_not_fit_the_images_is_refused(verb, network, words, capsys, monkeypatch):
    Path("their_networks.py").write_text(
        "from torch.nn import *\nfrom lightning_gradood.networks import CifarResNet\n\n"
        f"def built() -> Module:\n    return {network}\n"
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "their_networks", raising=False)
    weights = []
    if verb != "fit":
        torch.save(importlib.import_module("their_networks").built().state_dict(), "theirs.pt")
        weights = ["--ckpt_path", "theirs.pt"]
    Path("theirs.yaml").write_text(
        tiny.CONFIG.replace("lightning_gradood.networks.CifarResNet", "their_networks.built")
    )
    text = Path("theirs.yaml").read_text().replace("init_args: {blocks_per_stage: 1, num_classes: 3}", "init_args: {}")
    Path("theirs.yaml").write_text(text)
    assert words in untouched([verb, "--config", "theirs.yaml", *weights], capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*FIT, "--data.train", "null"], "`data.train` should name the classifier's training images."),
        (
            [*FIT, "--data.train", "images"],
            "`train` should have a class for every image, to train or test a classifier.",
        ),
        (
            [*FIT, "--data.train", "null", "--detection", "null"],
            "Give `data.train`, or give trained weights and use `detect`",
        ),
        (
            [*FIT, "--data.train.init_args.digits", "[0, 1, 2, 3]"],
            "as many outputs as the data have classes, 4. Got 3 outputs.",
        ),
        ([*DETECT, "--data.train", "null", "--data.normal", "four_classes"], "data have classes, 4. Got 3 outputs."),
        ([*FIT, "--trainer.enable_checkpointing", "false"], "`trainer.enable_checkpointing` should be on"),
        ([*DETECT, "--detection", "null"], "`detection` should hold settings for `detect`. Got null."),
        (["extract", *FILE, "--detection", "null"], "`detection` should hold settings for `extract`. Got null."),
        (["detect", *FILE, "--ckpt_path", "best"], "`ckpt_path` should be `best` only after a `fit`"),
        (
            ["test", *FILE, "--ckpt_path", "good.pt", "--data.normal", "images"],
            "`normal` should have a class for every image",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, words, capsys):
    assert words in untouched(arguments, capsys)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "extract", "detect"])
@pytest.mark.parametrize("flag", ["--ckpt_path", "--model.weights"])
def test_a_file_that_would_execute_code_is_refused_by_every_verb(verb, flag, capsys):
    message = untouched([verb, *FILE, flag, "malicious.ckpt"], capsys)
    assert (
        f"Got `{flag.removeprefix('--')} = malicious.ckpt`, which asks for Python's posix.mkdir; nothing was executed."
        in message
    )


@pytest.mark.parametrize(
    ("verb", "flag"),
    [("fit", "--ckpt_path"), ("fit", "--model.weights"), ("test", "--ckpt_path"), ("detect", "--model.weights")],
)
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("malicious.pkl", "cannot be read as one"),
        ("nowhere.ckpt", "which does not exist"),
        ("deeper.pt", "Build the network that these weights were trained with"),
        ("five_classes.pt", "holds weights for 5 classes, the network has 3"),
    ],
)
def test_weights_that_do_not_fit_are_refused(verb, flag, file, words, capsys):
    if verb == "fit" and flag == "--ckpt_path" and file.endswith(".pt"):
        words = f"which holds weights only. To start from these weights use --model.weights {file}."
    message = untouched([verb, *FILE, flag, file], capsys)
    assert file in message
    assert words in message


EPS = "--data.attacks={a: {class_path: FGSM, init_args: {eps: %s}}}"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--data.attacks", "lee2019"],
            "`data.attacks` should be one of paper, modern, pilot. Got `data.attacks = 'lee2019'`",
        ),
        ([EPS % "0"], "`eps` should be a float above 0 and at most 1, as pixels are in [0, 1]. Got `eps = 0"),
        ([EPS % "-0.1"], "`eps` should be a float above 0 and at most 1, as pixels are in [0, 1]. Got `eps = -0.1`."),
        ([EPS % "1.5"], "`eps` should be a float above 0 and at most 1, as pixels are in [0, 1]. Got `eps = 1.5`."),
        ([EPS % "8"], "If 8 of 255 grey levels are meant, write 0.031373, which is 8/255."),
        (
            ["--data.attacks={a: {class_path: FSGM}}"],
            "`data.attacks`: there is no class called FSGM. Did you mean `FGSM`?",
        ),
        (["--data.attacks={nine: Semantic}"], "should have different names. Got ['nine'] more than once."),
        (["--data.attacks=paper", "--data.limits.pdg=3"], "Got `limits` with ['pdg']. Choose among ['fgsm', 'bim',"),
        (["--data.corruptions", "7"], "`severity` should be"),
        (["--data.corruptions={f: {class_path: Corruption, init_args: {kind: fogg}}}"], "fog"),
        (["--data.keep", "some"], "`data.keep`: "),
        (
            ["--data.attacks={a: {class_path: AdvertorchAttack, init_args: {attack: os.path}}}"],
            "Got `attack = 'os.path'`",
        ),
        (
            ["--data.attacks={a: {class_path: FunctionAttack, init_args: {function: no.where}}}"],
            "Got `function = 'no.where'`",
        ),
    ],
)
def test_attacks_that_cannot_be_are_refused_before_anything_is_trained(flags, words, capsys):
    assert words in untouched([*FIT, *flags], capsys)


def test_an_attack_that_misleads_nothing_is_a_failed_row_with_its_numbers(capsys):
    harmless = "--data.attacks={tiny: {class_path: FGSM, init_args: {eps: 1.0e-6}}}"
    with pytest.raises(SystemExit) as ended:
        main([*DETECT, "--data.train", "null", harmless, "--data.keep", "successful"])
    assert ended.value.code == 3, "the other sources are reported"
    message = capsys.readouterr().out
    assert (
        "failed: `mlp` on `tiny`: `data.keep = successful` should leave images of `tiny` in every split. Got 0 of 20"
        in message
    )
    assert "Use `--data.keep all`" in message


@pytest.mark.filterwarnings("ignore:NO WEIGHTS")
@pytest.mark.parametrize(
    "forward", ["self.head(images.detach().mean((2, 3)))", "self.head(images.mean((2, 3))).detach()"]
)
def test_a_network_without_a_gradient_is_refused_by_attacks(forward, capsys, monkeypatch):
    """Also where the number of threads is measured on it first."""
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    Path("flat.py").write_text(
        "import torch\n\nclass Flat(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.head = torch.nn.Linear(3, 3)\n"
        f"    def forward(self, images):\n        return {forward}\n"
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "flat", raising=False)
    flat = ["--model.network", "flat.Flat", "--data.train", "null", "--data.attacks={a: FGSM}"]
    message = refused(["detect", *FILE, *flat], capsys)
    assert "through autograd" in message
    assert "Remove torch.no_grad, detach" in message


def test_a_refusal_begins_a_line_of_its_own_behind_a_bar(capsys):
    from tqdm import tqdm

    with tqdm(total=3, file=sys.stderr) as bar:
        bar.update(1)
        bar.refresh()
        with pytest.raises(SystemExit):
            main(["detect", "--config", "nowhere.yaml"])
        assert "\nerror: " in capsys.readouterr().err


def test_a_checkpoint_of_another_architecture_is_refused_by_fit(finished, capsys):
    (checkpoint,) = finished.glob("runs/tiny/*/checkpoints/last.ckpt")
    message = untouched([*FIT, "--ckpt_path", str(checkpoint), f"{NETWORK}.blocks_per_stage", "2"], capsys)
    assert f"Got `ckpt_path = {checkpoint}`, in which 30 of its " in message
    assert "tensors are missing (first layer1.1.conv1.weight, " in message


def test_logits_that_are_not_finite_are_refused_with_the_images_and_nothing_is_kept(capsys):
    message = refused(["detect", *FILE, "--ckpt_path", "nan.pt"], capsys)
    assert "logits should be finite. Got NaN or infinity" in message
    assert "These are normal/" in message
    assert not list(Path("runs/.records").glob("*/entry.json"))
    assert not list(Path("runs").rglob("results.json"))


def test_an_unreadable_image_is_named(capsys):
    message = refused([*DETECT, "--data.anomalies.nine", "broken"], capsys)
    assert "Got `broken/003.png`: it is no image. Remove that file" in message
    assert message.endswith("Remove that file or replace it by a whole one.")
    assert Path("broken/003.png").read_bytes() == b"cut off"


def test_a_process_ends_with_the_sentence_and_code_two():
    command = [sys.executable, "-m", "lightning_gradood", *FIT, "--model.network", "resnet18"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        "error: `model.network`: there is no class called resnet18. Did you mean `lightning_gradood.networks.resnet18`?\n"
    )


@pytest.mark.parametrize("flag", ["--model.weights", "--ckpt_path"])
def test_several_networks_in_one_file_are_listed_and_a_prefix_picks_one(flag, capsys):
    state = torch.load("good.pt", weights_only=True)
    torch.save({"student": state, "teacher": {name: part + 1 for name, part in state.items()}}, "two.pt")
    words = ["detect", *FILE, flag, "two.pt"]
    sentence = untouched(words, capsys)
    assert f"Got `{flag.removeprefix('--')} = two.pt` with 2: student (" in sentence
    assert sentence.endswith("Pick one with --model.weights_prefix teacher.")
    wrong = untouched([*words, "--model.weights_prefix", "tutor"], capsys)
    assert (
        f"`model.weights_prefix = tutor` for `{flag.removeprefix('--')} = two.pt`, whose names start with student, tea"
        in wrong
    )
    main(["detect", *FILE, flag, "two.pt", "--model.weights_prefix", "student", "--run_dir", "runs/two"])
    assert "weights_prefix: student" in Path("runs/two/config.yaml").read_text()
