"""What the README shows works: its Python runs, its commands parse."""

import re
import shlex
from pathlib import Path

import pytest

from lightning_gradood.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text() + (ROOT / "docs/results.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.startswith("python -m lightning_gradood")]


def test_there_is_something_to_test():
    assert blocks("python")
    assert len(commands()) >= 5


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code):
    exec(code, {})


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command, workplace, capsys):
    (workplace / "configs").symlink_to(ROOT / "configs")
    with pytest.raises(SystemExit) as exit_:
        main([*shlex.split(command)[3:], "--print_config"])
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    assert "class_path: lightning_gradood.data.ImageDataModule" in output.out
