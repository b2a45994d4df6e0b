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
import yaml
from tiny import refused, results

import lightning_gradood
from lightning_gradood.cli import main
from lightning_gradood.core import experiment_file, shipped_files

ROOT = Path(__file__).parents[2]
_PARTS = {
    *("lightning_gradood", "configs", "sweeps", "tests", "examples", "benchmarks", "docs", "pyproject.toml"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt"),
}


@pytest.mark.parametrize("name", ["digits", "digits.yaml", "configs/digits.yaml"])
def test_a_shipped_file_is_found_from_anywhere(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", name, "--print_config"])
    assert exit_.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["data"]["init_args"]["normal"]["class_path"].endswith("DigitsSource")


def test_a_path_of_the_user_s_wins(workplace):
    Path("digits").write_text("mine")
    Path("configs").mkdir()
    Path("configs/folders.yaml").write_text("mine")
    assert experiment_file("digits") == "digits"
    assert experiment_file("configs/folders.yaml") == "configs/folders.yaml"
    assert experiment_file("folders") == str(shipped_files("configs")["folders"])
    assert experiment_file("{seed_everything: 1}") == "{seed_everything: 1}"  # YAML on the command line


@pytest.mark.parametrize(
    "flags", [["--config", "digts"], ["--config=digts"], ["-c", "digts"], ["--config", "configs/digts.yaml"]]
)
@pytest.mark.parametrize("verb", ["fit", "detect", "benchmark"])
def test_a_misspelt_name_is_refused_with_the_nearest(verb, flags, capsys):
    message = refused([verb, *flags], capsys)
    assert message.startswith(
        "`--config` should be an experiment file, or the name of one that comes with the package."
    )
    assert message.endswith("Did you mean `digits`?")
    assert not Path("runs").exists()


def test_a_benchmark_finds_shipped_experiments_too(capsys):
    Path("two.yaml").write_text("experiments: {a: {config: digts, dataset: d, network: n}}\n")
    assert "Got `config digts`" in refused(["benchmark", "--config", "two.yaml"], capsys)
    assert experiment_file("configs/digits.yaml", "config") == str(ROOT / "configs/digits.yaml")


def test_the_listing_names_every_file_with_what_it_says_of_itself(capsys):
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    for folder in ("configs", "sweeps"):
        for path in (ROOT / folder).glob("*.yaml"):
            (line,) = [line for line in lines if line.startswith(f"{folder}/{path.name} ")]
            assert len(line.split(maxsplit=1)[1]) > 20


def test_copies_are_the_files_and_nothing_of_the_user_s_is_replaced(capsys):
    main(["configs", "--copy", "mine"])
    for path in [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "sweeps").glob("*.yaml")]:
        assert (Path("mine") / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    main(["configs", "--copy", "mine"])  # again: nothing was changed
    Path("mine/configs/folders.yaml").write_text("changed")
    Path("mine/configs/digits.yaml").unlink()
    message = refused(["configs", "--copy", "mine"], capsys)
    assert "a configs/folders.yaml that differs from the shipped one" in message
    assert Path("mine/configs/folders.yaml").read_text() == "changed"
    assert not Path("mine/configs/digits.yaml").exists()
    main(["configs", "digits", "--copy", "other"])
    assert [path.name for path in Path("other").rglob("*.yaml")] == ["digits.yaml"]


def test_an_unknown_name_is_refused_with_the_nearest(capsys):
    assert refused(["configs", "dgits"], capsys).endswith("Did you mean `digits`?")
    assert "`configs` without a name lists them" in refused(["configs", "zebra"], capsys)


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"lightning_gradood {lightning_gradood.__version__}\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and source distribution of a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "checkout").mkdir()
    for path in ROOT.iterdir():  # not what runs, downloads and environments have left there
        if path.name in _PARTS:
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, folder / "checkout" / path.name)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(folder / "checkout")],
        check=True,
        capture_output=True,
    )
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def test_the_wheel_runs_where_there_is_no_checkout(built, tmp_path):
    wheel, _ = built
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # what it depends on comes from this environment, whose own .pth files, the checkout's among them, are not read there
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    place = tmp_path / "elsewhere"
    place.mkdir()
    tiny = [
        "--data.limit",
        "20",
        "--data.limits=null",
        "--data.attacks",
        "null",
        "--trainer.max_epochs",
        "1",
        "--detection.mlp.max_epochs",
        "2",
    ]
    quick = ["--detection.resamples", "20", "--detection.false_positive_rate", "0.2", "--trainer.accelerator", "cpu"]
    command = [str(python.with_name("gradood")), "fit", "--config", "digits", "--run_dir", "here", *tiny, *quick]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert results(place / "here")["provenance"]["versions"]["lightning_gradood"] == lightning_gradood.__version__
    said = subprocess.run(
        [str(python), "-c", "import lightning_gradood; print(lightning_gradood.__file__)"],
        cwd=place, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.startswith(str(site))  # and not the checkout


def test_what_the_distributions_hold(built):
    wheel, source = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith("METADATA")]
        (scripts,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    package = ROOT / "lightning_gradood"
    own = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.suffix in (".py", ".jinja", ".typed")}
    shipped = {f"lightning_gradood/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/*.yaml")}
    shipped |= {f"lightning_gradood/{path.relative_to(ROOT)}" for path in ROOT.glob("sweeps/*.yaml")}
    assert own | shipped <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert "gradood = lightning_gradood.cli:main" in scripts
    relative = [word for word in metadata.split("](")[1:] if not word.startswith(("http", "#"))]
    assert relative == []  # links that work in a checkout only lead nowhere on a page of an index
    with tarfile.open(source) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for name in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "constraints.txt",
        "docs/results.md",
        "configs/digits.yaml",
        "LICENSE",
        "README.md",
    ):
        assert name in held
    assert any(name.startswith("tests/") for name in held)
