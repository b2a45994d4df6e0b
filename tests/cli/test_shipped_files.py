"""Experiment files that come with the package: found by name, listed, copied, and part of the wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from tiny import all_refused, called, resolved, results

import lightning_gradood
from lightning_gradood.cli import main
from lightning_gradood.core import experiment_file, shipped_files

ROOT = Path(__file__).parents[2]
_PARTS = ["lightning_gradood", "configs", "sweeps", "tests", "examples", "benchmarks", "docs", "pyproject.toml",
          "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt"]  # fmt: skip
SHIPPED = [path.relative_to(ROOT) for folder in ("configs", "sweeps") for path in (ROOT / folder).glob("*.yaml")]


def test_a_shipped_file_is_found_from_anywhere_and_a_path_of_the_user_s_wins(capsys):
    for name in ("digits", "digits.yaml", "configs/digits.yaml"):
        found = resolved(["fit", "--config", name], capsys)
        assert found["data"]["init_args"]["normal"]["class_path"].endswith("DigitsSource")
    Path("digits").write_text("mine")
    Path("configs").mkdir()
    Path("configs/folders.yaml").write_text("mine")
    for name in ("digits", "configs/folders.yaml", "{seed_everything: 1}"):  # the last is YAML on the command line
        assert experiment_file(name) == name
    assert experiment_file("folders") == str(shipped_files("configs")["folders"])


def test_a_misspelt_name_is_refused_with_the_nearest(capsys):
    rows = [["fit", "-c", "digts"], ["detect", "--config=configs/digts.yaml"], ["benchmark", "--config", "digts"]]
    rows = [(words, "Did you mean `digits`?") for words in [*rows, ["configs", "dgits"]]]
    all_refused([*rows, (["configs", "zebra"], "`configs` without a name lists them")], capsys)


def test_files_are_listed_with_what_they_say_of_themselves_and_copied_over_nothing_of_the_user_s(capsys):
    _, out, _ = called(["configs"], capsys)
    said = dict(line.split(maxsplit=1) for line in out.splitlines() if ".yaml " in line)
    assert [str(path) for path in SHIPPED if len(said.get(str(path), "")) <= 20] == []
    main(["configs", "--copy", "mine"])
    assert [path for path in SHIPPED if ("mine" / path).read_bytes() != (ROOT / path).read_bytes()] == []
    Path("mine/configs/folders.yaml").write_text("changed")
    Path("mine/configs/digits.yaml").unlink()
    words = "configs/folders.yaml, which differs from the shipped one"
    all_refused([(["configs", "--copy", "mine"], words)], capsys)
    main(["configs", "digits", "--copy", "other", "folders"])  # a list may stand on both sides of flags
    assert {path.name for path in Path("other").rglob("*.yaml")} == {"digits.yaml", "folders.yaml"}


@pytest.mark.slow
def test_distributions_hold_everything_and_the_wheel_runs_where_there_is_no_checkout(tmp_path):
    (tmp_path / "checkout").mkdir()
    for name in _PARTS:  # not what runs, downloads and environments have left there
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "checkout" / name)
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(tmp_path / "checkout")]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    _holds_everything(wheel, source)
    _runs(wheel, tmp_path)


def _holds_everything(wheel, source):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        texts = {name.rpartition("/")[2]: archive.read(name).decode() for name in names if ".dist-info/" in name}
    package = ROOT / "lightning_gradood"
    own = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.suffix in (".py", ".jinja", ".csv", ".txt", ".yaml", ".typed")
    }
    assert own | {f"lightning_gradood/{path}" for path in SHIPPED} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert "gradood = lightning_gradood.cli:main" in texts["entry_points.txt"]
    links = texts["METADATA"].split("](")[1:]
    assert [link for link in links if not link.startswith(("http", "#"))] == []  # relative ones work in a checkout only
    with tarfile.open(source) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"CHANGELOG.md", "LICENSE", "README.md", "constraints.txt", "docs/results.md", "configs/digits.yaml"} <= held
    assert any(name.startswith("tests/") for name in held)


def _runs(wheel, folder):
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    # what it depends on comes from this environment, whose own .pth files, the checkout's among them, are not read there
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    place = folder / "elsewhere"
    place.mkdir()
    command = [str(python.with_name("gradood")), "fit", "--config", "digits", "--run_dir", "here", "--data.limits.images", "60",
               "--data.perturbations.attacks", "null", "--trainer.max_epochs", "1", "--trainer.accelerator",
               "cpu", "--detection.mlp.max_epochs", "2", "--detection.resamples", "20",
               "--detection.false_positive_rate", "0.2"]  # fmt: skip
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert results(place / "here")["provenance"]["versions"]["lightning_gradood"] == lightning_gradood.__version__
    asked = [str(python), "-c", "import lightning_gradood; print(lightning_gradood.__file__)"]
    said = subprocess.run(asked, cwd=place, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith(str(site))  # and not the checkout
