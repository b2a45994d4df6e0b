"""Sweeps: W&B passes parameters as flags of the sweep's own command, and the real command line must take each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import IMAGES, detect, resolved, results
from wandb_server import ENTITY, wandb_server

ROOT = Path(__file__).parents[2]
SWEEPS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "sweeps").glob("*.yaml"))}
OPTIMIZER = """
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9, weight_decay: 0.0}}
"""


def points(name):
    """As few points of a sweep as have every value of every parameter."""
    parameters = SWEEPS[name]["parameters"].items()
    lists = {key: one.get("values", [one.get("min"), one.get("max")]) for key, one in parameters}
    number = max(map(len, lists.values()))
    return [{key: values[place % len(values)] for key, values in lists.items()} for place in range(number)]


def flags(point):
    return [f"--{key}={value}" for key, value in point.items()]


def wrong(config, point):
    """The parameters whose value in a configuration is not the point's; `init_args` are left out as in flags."""
    found = {}
    for key, value in point.items():
        inner = config
        for part in key.split("."):
            inner = inner[part] if part in inner else inner["init_args"][part]
        if isinstance(inner, list):
            inner = f"[{', '.join(one['class_path'].rpartition('.')[2] for one in inner)}]"
        found |= {key: inner} if inner != value else {}
    return found


def test_every_value_of_every_sweep_is_taken_as_a_flag(capsys):
    assert list(SWEEPS) == ["attacks", "classifier", "detector", "label_designs"]
    for name, sweep in SWEEPS.items():
        words = [word.replace("${envvar:CLASSIFIER}", "best.ckpt") for word in sweep["command"] if word != "${env}"]
        assert [*words[:3], words[-1]] == ["${interpreter}", "-m", "lightning_gradood", "${args}"]
        for point in points(name):
            assert wrong(resolved([*words[3:-1], *flags(point)], capsys), point) == {}


def test_two_points_on_cached_records_differ_probe_once_and_log_what_is_optimised(run, probed):
    metric = SWEEPS["detector"]["metric"]
    assert metric == {"name": "detection/mean/mlp/val/auroc", "goal": "maximize"}
    several = {"detection.label_designs": SWEEPS["detector"]["parameters"]["detection.label_designs"]["values"][-1]}
    for number, place in enumerate((0, -1)):
        folder = detect(run, f"point{number}", *flags(points("detector")[place] | several))
        assert sum(probed) == IMAGES  # the first point reads the label designs that are new, the second nothing
        assert 0 <= results(folder)["mean"]["mlp"]["val"]["auroc"] <= 1
        (logged,) = folder.glob("logs/*/metrics.csv")
        assert metric["name"] in logged.read_text().splitlines()[0].split(",")
    one, other = (Path(f"point{number}/detectors/nine/mlp.safetensors").read_bytes() for number in range(2))
    assert one != other


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [("attacks", []), ("detector", []), ("classifier", ["--trainer.devices=2", "--trainer.strategy=ddp"])],
)
def test_points_by_the_real_agent(name, more, run, workplace):
    """As a team does: `wandb sweep`, then `wandb agent`, which starts a process for each point."""
    sweep, tried = SWEEPS[name], points(name)[-2:]
    experiment = Path("tiny.yaml").read_text().replace("    network:\n", f"{OPTIMIZER}    network:\n", 1)
    Path("tiny.yaml").write_text(experiment)
    Path("sweeps").mkdir()
    command = [word.replace("cifar_resnet", str(Path("tiny.yaml").absolute())) for word in sweep["command"]]
    Path("sweeps/sweep.yaml").write_text(yaml.safe_dump(sweep | {"command": [*command[:-1], *more, command[-1]]}))
    with wandb_server() as server:
        server.points = tried
        about = {"CLASSIFIER": str((run / "checkpoints/best.ckpt").absolute()), "WANDB_AGENT_DISABLE_FLAPPING": "true"}
        environment = server.environment(workplace) | about
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        for words in (["sweep", "sweeps/sweep.yaml"], ["agent", f"{ENTITY}/lightning_gradood/sweep1"]):
            done = subprocess.run(["wandb", *words], env=environment, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, done.stderr
        assert server.sweeps[0]["metric"] == sweep["metric"]
        assert len(server.runs) == len(tried), done.stderr  # one for each point, whatever the number of processes
        for number, point in enumerate(tried):
            sent = server.runs[f"point{number}"]
            assert (sent.about["sweep"], sent.about["project"]) == ("sweep1", "lightning_gradood")
            assert 0 <= sent.summary[sweep["metric"]["name"]] <= 1
            assert wrong(sent.config, point) == {}
        assert {one["artifactTypeName"] for one in server.artifacts} <= {"run_table"}  # of points no files are kept
    assert len(list(Path("runs/tiny").glob("*/config.yaml"))) == 1 + len(tried)  # each point in a folder of its own
    assert not list(Path("runs/tiny").glob("*/figures"))
