"""Sweeps: W&B passes parameters as flags of the sweep's own command, and the real command line must take each."""

import re
from pathlib import Path

import pytest
import yaml
from tiny import FILE, IMAGES, results

from lightning_gradood.cli import main

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def values(parameter):
    return parameter["values"] if "values" in parameter else [parameter["min"], parameter["max"]]


def flags(point):
    """What W&B writes in place of ${args}."""
    return [f"--{key}={value}" for key, value in point.items()]


def points():
    for path in SWEEPS:
        for key, parameter in yaml.safe_load(path.read_text())["parameters"].items():
            for value in values(parameter):
                yield pytest.param(path, {key: value}, id=f"{path.stem}-{key}={value}")


def words(sweep, point):
    """The words after `python -m lightning_gradood` of one run of a sweep."""
    command = [word for word in sweep["command"] if word != "${env}"]
    assert command[:3] == ["python", "-m", "lightning_gradood"]
    assert command[-1] == "${args}"
    return [*command[3:-1], *flags(point)]


def test_there_are_sweeps():
    assert SWEEPS


@pytest.mark.parametrize(("path", "point"), list(points()))
def test_each_parameter_is_a_key(path, point, workplace, capsys):
    (workplace / "configs").symlink_to(ROOT / "configs")
    with pytest.raises(SystemExit) as exit_:
        main([*words(yaml.safe_load(path.read_text()), point), "--print_config"])
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    ((key, value),) = point.items()
    config = yaml.safe_load(output.out)
    for part in key.split("."):
        config = config[part]
    if isinstance(config, list):  # label designs, by class name
        assert [design["class_path"].rpartition(".")[2] for design in config] == re.findall(r"\w+", value)
    else:
        assert config == value


def test_two_points_on_cached_records_differ_and_probe_once(run, probed):
    sweep = yaml.safe_load((ROOT / "sweeps/detector.yaml").read_text())
    parameters = {key: values(parameter) for key, parameter in sweep["parameters"].items()}
    several = parameters["detection.label_designs"][-1]
    new = [
        {**{key: choices[place] for key, choices in parameters.items()}, "detection.label_designs": several}
        for place in (0, -1)
    ]
    checkpoint = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    for number, point in enumerate(new):
        main(["detect", *FILE, *checkpoint, "--run_dir", f"point{number}", *flags(point)])
        assert sum(probed) == IMAGES  # the first point reads the label designs that are new, the second nothing
    scores = [results(Path(f"point{number}"))["mean"]["mlp"]["val"]["auroc"] for number in range(2)]
    detectors = [Path(f"point{number}/detectors/nine/mlp.safetensors").read_bytes() for number in range(2)]
    assert all(0 <= score <= 1 for score in scores)
    assert detectors[0] != detectors[1]


def test_what_is_optimised_is_logged(run):
    sweep = yaml.safe_load((ROOT / "sweeps/detector.yaml").read_text())
    assert sweep["metric"] == {"name": "detection/mean/mlp/val/auroc", "goal": "maximize"}
    (logged,) = run.glob("logs/*/metrics.csv")
    assert sweep["metric"]["name"] in logged.read_text().splitlines()[0].split(",")
