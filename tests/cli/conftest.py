"""A workplace for each test, and one run that several start from."""

import os
import sys

import lightning.pytorch  # noqa: F401  # its log handler keeps the stream that it first meets
import pytest
import tiny

import lightning_gradood.extraction.batch_records as batch_records


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty working directory with the tiny experiment file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning_gradood"])  # Lightning warns where pytest's arguments stand
    for name in ("DATA_DIR", "LIGHTNING_GRADOOD_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tiny.yaml").write_text(tiny.CONFIG)
    return tmp_path


@pytest.fixture
def module(workplace, monkeypatch):
    """Write a module of the user's, `module(name, text)`, which this process and those that it starts can import."""
    written = []
    monkeypatch.setenv("PYTHONPATH", f"{workplace}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name, text):
        (workplace / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(workplace)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A workplace in which `fit` has run once; tests copy it."""
    return tiny.prepared(tmp_path_factory, "finished", ["fit", *tiny.FILE])


@pytest.fixture(scope="session")
def drawn(finished, tmp_path_factory):
    """A workplace with a run that has figures, an attack, a long name, and every source against each; not to be changed."""
    (checkpoint,) = finished.glob("runs/tiny/*/checkpoints/best.ckpt")
    words = ["detect", *tiny.FILE, *tiny.WITH_FIGURES, "--ckpt_path", str(checkpoint), "--run_dir", "drawn",
             "--data.perturbations.attacks", "{fgsm: {class_path: FGSM, init_args: {eps: 0.1}}}", "--data.keep_pixels", "uint8",
             f"--data.anomalies.{tiny.LONG}", "{class_path: PhotoPatches, init_args: {scale: 2.0}}",
             "--detection.protocol", "cross",
             "--detection.detectors", "[Energy, {class_path: LID, init_args: {neighbours: [2]}}]"]  # fmt: skip
    return tiny.prepared(tmp_path_factory, "drawn", words, finished)


@pytest.fixture
def run(finished, workplace):
    """The finished run, copied into the working directory with its records; its folder, relative."""
    return tiny.copy_run(finished, workplace).relative_to(workplace)


@pytest.fixture
def probed(monkeypatch):
    """The number of images in each batch that is probed."""
    counts, read = [], batch_records.read_probes

    def counting(probes, network, images, *more):
        counts.append(len(images))
        return read(probes, network, images, *more)

    monkeypatch.setattr(batch_records, "read_probes", counting)
    return counts


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    """No W&B setting anywhere, a network that fails at once, and W&B as if just started: it reads its settings once."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delenv("WANDB_MODE")  # what the program sets is undone, as it was registered
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    wandb.teardown()
    yield
    wandb.finish()  # a process does so when it exits
    wandb.teardown()
