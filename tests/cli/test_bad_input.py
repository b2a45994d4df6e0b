"""Bad input at every door: one sentence that names the key or file and the fix, exit code 2, nothing on disk touched."""

import shutil
import sys
from pathlib import Path

import pytest
from bad_inputs import write_bad_inputs
from programs import run_program
from tiny import FILE, all_refused, called, refused

FIT, READ = ["fit", *FILE], ["detect", *FILE]
DETECT = [*READ, "--ckpt_path", "good.pt"]
MODULE = """
from torch.nn import *
from lightning_gradood.networks import CifarResNet


class Flat(Module):
    def __init__(self):
        super().__init__()
        self.head = Linear(3, 3)

    def forward(self, images):
        return self.head(images.detach().mean((2, 3)))


def grey() -> Module: return CifarResNet(1, 3, channels=1)
def two() -> Module: return CifarResNet(1, 2)
"""
DOORS = [
    (READ, "Got none, and no checkpoint, but `network.conv1.weight` at random."),
    ([], "A verb should come first, e.g. `fit --config digits`. Got none."),
    (["detct", *FILE], "Got `detct`. Did you mean `detect`?"),
    (["fit"], "`data`, `model` should be given. Got none. Name an experiment file, e.g. --config digits."),
    (["fit", "--config", "nowhere.yaml"], "Got `--config nowhere.yaml`, which does not exist (looked at /"),
    (["fit", "--config", "good.pt"], "`config` should be a YAML file. Got `config = good.pt`, no text in UTF-8."),
    (["fit", "--confg", "tiny.yaml"], "Got `confg`. Did you mean `config`?"),
    ([*READ, "--weights", "good.pt"], "Got `weights`. Did you mean `model.weights`?"),
    ([*READ, "--data.normal", "--run_dir", "x"], "`data.normal` should be given with a value. Got none."),
    ([*READ, "--data", "list.yaml"], "Got `data = list.yaml`, in which no keys are."),
    ([*READ, "--detection=flow.yaml"], "Got `detection = flow.yaml`, while parsing a flow node did not find"),
    *(([*READ, f"--trainer.devices={number}"], "Got: `devices` selected with") for number in ("many", -3, 1.5)),
    ([*FIT, "--trainer.accelerator", "abacus"], "`trainer` should hold settings that work on this machine. Got: "),
    ([*FIT, "--trainer.precision", "bf16-true"], "`trainer.precision` should leave the weights in float32"),
    ([*FIT, "--trainer.enable_checkpointing", "false"], "`trainer.enable_checkpointing` should be on"),
    ([*FIT, "--data.train", "null"], "`data.train` should name the classifier's training images."),
    ([*FIT, "--ckpt_path", "good.pt"], "which holds weights only. To start from these weights use --model.weights"),
    ([*FIT, "--model.weights", "malicious.ckpt"], "Got `model.weights = malicious.ckpt`, which asks for Python's"),
    ([*FIT, "--model.network", "theirs.grey"], "to have 1 channels, but got 3 channels instead. Give `data.transform`"),
    ([*FIT, "--model.network", "theirs.two"], "should have at least as many outputs as the data have classes, 3."),
    ([*FIT, "--data.classes", "deep.yaml"], "Got `data.classes = deep.yaml`"),
    ([*FIT, "--run_dir", "old"], "differs in"),
    ([*DETECT, "--data.normal", "nowhere"], "Got `data.normal = nowhere`, which does not exist (looked at /"),
    ([*DETECT, "--data.anomalies.nine", "empty"], "Got `data.anomalies.nine = empty` with none (looked at /"),
    ([*DETECT, "--data.limits.sources.pdg=3"], "Got `limits.sources` with ['pdg']."),
    ([*DETECT, "--detection", "null"], "`detection` should hold settings for `detect`. Got null."),
    ([*DETECT, "--detection.detectors", "[GradientGaussian]", "--detection.false_positive_rate", "0.001"],
     "`data.normal` should have at least 999 images in `val` for `detection.false_positive_rate = 0.001`. Got "),
    ([*DETECT, "--detection.detectors", "[{class_path: KNN, init_args: {k: 50}}]"],
     "`data.normal` should have at least 50 images in `train` for `knn`. Got 8."),
    ([*DETECT, "--detection.guard", "lid"], "name a detector of this experiment. Got `detection.guard = lid`. Choose"),
    ([*READ, "--ckpt_path", "best"], "`ckpt_path` should be `best` only after a `fit`"),
    ([*READ, "--ckpt_path", "malicious.ckpt"], "which asks for Python's posix.mkdir; nothing was executed."),
    (["test", *FILE, "--ckpt_path", "deeper.pt"], "Build the network that these weights were trained with"),
    (["validate", *FILE, "--model.weights", "two.pt"], "Pick one with --model.weights_prefix teacher."),
    (["score", "--guard", "guard", "images"], "guard/guard.json should be part of a guard"),
    (["compare", "ended"], "`ended/provenance.json` should be as `detect` has written it"),
    (["dashboard", "ended", "--entity", "team"], "`ended/provenance.json` should be as `detect` has written it"),
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_bad_inputs(folder)
    return folder


@pytest.fixture(autouse=True)
def here(inputs, workplace, module):
    shutil.copytree(inputs, workplace, dirs_exist_ok=True)
    module("theirs", MODULE)


def test_every_door_refuses_in_one_sentence_and_leaves_all_files_as_they_were(finished, capsys):
    for place in ("old/config.yaml", "deep.yaml", "guard/guard.json", "ended/provenance.json", "ended/results.parquet"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_text("[" * 10**5)  # which explodes
    Path("list.yaml").write_text("- a")
    Path("flow.yaml").write_text("a: [")
    (checkpoint,) = finished.glob("runs/tiny/*/checkpoints/last.ckpt")
    deeper = [*FIT, "--ckpt_path", str(checkpoint), "--model.network.blocks_per_stage", "2"]
    all_refused([*DOORS, (deeper, f"Got `ckpt_path = {checkpoint}`, in which 30 of its ")], capsys)
    assert not Path("executed").exists()


def test_what_is_met_while_images_are_read_is_refused_by_name_and_nothing_is_kept(capsys, caplog):
    flat = ["--model.network", "theirs.Flat", "--data.train", "null", "--data.perturbations.attacks={a: FGSM}"]
    rows = [
        ([*READ, "--ckpt_path", "nan.pt"], ["logits should be finite. Got NaN or infinity", "These are normal/"]),
        ([*READ, *flat, "--model.weights", "flat.pt"], ["through autograd", "such as detach"]),
        ([*FIT, "--trainer.val_check_interval", "9999"], ["Got: `val_check_interval` (9999) must be less"]),
        (
            [*DETECT, "--data.anomalies.nine", "broken"],
            ["`broken/003.png` should be a readable image. Got: it is no image."],
        ),
    ]
    for arguments, expected in rows:
        message = refused(arguments, capsys)
        assert [words for words in expected if words not in message] == [], message
        assert "nan.pt" not in arguments or not list(Path("runs/.records").glob("*/*.parquet"))
    assert not list(Path("runs").rglob("results.parquet"))
    skip = ["--detection.on_bad_image", "skip", "--detection.detectors", "[Baseline]"]
    assert called(["extract", *DETECT[1:], "--data.anomalies.nine", "broken", *skip], capsys)[0] == 0
    assert "nine: 1 of 6 images cannot be read and are left out: 003.png." in caplog.text


def test_an_attack_that_misleads_nothing_is_a_failed_row_with_its_numbers(capsys):
    harmless = "--data.perturbations.attacks={tiny: {class_path: FGSM, init_args: {eps: 1.0e-6}}}"
    words = [*DETECT, "--data.train", "null", harmless, "--data.perturbations.keep", "successful"]
    code, out, _ = called(words, capsys)
    assert code == 3, "the other sources are reported"
    said = "`mlp` on `tiny`: `data.perturbations.keep = successful` should leave images of `tiny` in every split. Got 0 of 20"
    assert said in " ".join(out.split())


def test_a_process_ends_with_the_sentence_and_code_two():
    command = [sys.executable, "-m", "lightning_gradood", *FIT, "--model.network", "resnet18"]
    ended = run_program(command, timeout=120)
    sentence = "`model.network`: there is no class called resnet18. Did you mean `lightning_gradood.networks.resnet18`?"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"error: {sentence}\n")
