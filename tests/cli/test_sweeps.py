"""Sweeps: W&B passes parameters as flags of the sweep's own command, and the real command line must take each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import FILE, IMAGES, refused, results
from wandb_server import ENTITY, wandb_server

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
    assert command[:3] == ["${interpreter}", "-m", "lightning_gradood"]
    assert command[-1] == "${args}"
    return [*(word.replace("${envvar:CLASSIFIER}", "best.ckpt") for word in command[3:-1]), *flags(point)]


def found_in(config, key):
    """The value of a dotted key, which leaves `init_args` out as flags may."""
    for part in key.split("."):
        config = config[part] if part in config else config["init_args"][part]
    return config


def test_there_are_sweeps():
    assert [path.stem for path in SWEEPS] == ["attacks", "classifier", "detector", "label_designs"]


@pytest.mark.parametrize(("path", "point"), list(points()))
def test_each_parameter_is_a_key(path, point, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*words(yaml.safe_load(path.read_text()), point), "--print_config"])
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    ((key, value),) = point.items()
    config = yaml.safe_load(output.out)
    config = found_in(config, key)
    if isinstance(config, list):  # label designs, by class name
        assert [design["class_path"].rpartition(".")[2] for design in config] == re.findall(r"\w+", value)
    else:
        assert config == value


OPTIMIZER = """
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9, weight_decay: 0.0}}
"""
TWO_PROCESSES = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.parametrize(
    ("path", "more", "places"),
    [
        *(pytest.param(path, [], (0, -1) if path == SWEEPS[2] else (-1,), id=path.stem) for path in SWEEPS[:3]),
        pytest.param(SWEEPS[3], TWO_PROCESSES, (-1,), id=f"{SWEEPS[3].stem} on two processes"),
    ],
)
def test_points_by_the_real_agent(path, more, places, run, workplace):
    """As a team does: `wandb sweep`, then `wandb agent`, which starts a process for each point."""
    sweep = yaml.safe_load(path.read_text())
    points = [{key: values(one)[place] for key, one in sweep["parameters"].items()} for place in places]
    experiment = Path("tiny.yaml").read_text().replace("    network:\n", f"{OPTIMIZER}    network:\n", 1)
    Path("tiny.yaml").write_text(experiment)
    Path("sweeps").mkdir()
    command = [word.replace("cifar_resnet", str(Path("tiny.yaml").absolute())) for word in sweep["command"]]
    Path("sweeps/sweep.yaml").write_text(yaml.safe_dump(sweep | {"command": [*command[:-1], *more, command[-1]]}))
    with wandb_server() as server:
        server.points = points
        about = {"CLASSIFIER": str((run / "checkpoints/best.ckpt").absolute()), "WANDB_AGENT_DISABLE_FLAPPING": "true"}
        environment = server.environment(workplace) | about
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        for words in (["sweep", "sweeps/sweep.yaml"], ["agent", f"{ENTITY}/lightning_gradood/sweep1"]):
            done = subprocess.run(
                ["wandb", *words], env=environment, capture_output=True, text=True, timeout=280, check=False
            )
            assert done.returncode == 0, done.stderr
        assert server.sweeps[0]["metric"] == sweep["metric"]
        assert len(server.runs) == len(points), done.stderr  # one for each point, whatever the number of processes
        for number, point in enumerate(points):
            sent = server.runs[f"point{number}"]
            assert (sent.about["sweep"], sent.about["project"]) == ("sweep1", "lightning_gradood")
            assert 0 <= sent.summary[sweep["metric"]["name"]] <= 1
            for key, value in point.items():
                assert same(found_in(sent.config, key), value)
        assert {one["artifactTypeName"] for one in server.artifacts} <= {
            "run_table"
        }  # of a sweep's points no files are kept
    names = [path.parent.name for path in Path("runs/tiny").glob("*/config.yaml") if path.parent.name != run.name]
    assert len(names) == len(points)  # each point in a folder of its own
    assert not list(Path("runs/tiny").glob("*/figures"))


def same(found, value):
    """Whether a logged value is what the flag said; label designs are known by their classes."""
    if isinstance(found, list):
        return [design["class_path"].rpartition(".")[2] for design in found] == re.findall(r"\w+", value)
    return found == value


def test_an_unknown_parameter_is_refused_by_its_name(capsys):
    message = refused(["detect", *FILE, "--detection.mlp.widht=32"], capsys)
    assert "widht" in message
    assert "Did you mean `width`?" in message


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
