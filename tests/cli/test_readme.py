"""The README and the pages of the documentation do what they say: their Python runs, their commands parse."""

import itertools
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from test_verbs import printed

from lightning_gradood.cli.verbs import ALONE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = "\n".join([README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))])


def blocks(language, text=PAGES):
    """The fenced blocks of one language, without those that a file is copied into."""
    found = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [block for block in found if not block.startswith("--8<--")]


def commands():
    """The words of every call of the program, continued lines joined, as a shell would split them."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    text = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " "), text)  # a quoted value may go over two lines
    calls = [part for line in text.splitlines() for part in re.split(r"&&|;", line) if "-m lightning_gradood " in part]
    words = [shlex.split(call, comments=True) for call in calls]
    return [list(one) for one in dict.fromkeys(tuple(each[each.index("-m") + 2 :]) for each in words)]


def test_there_are_blocks_to_look_at():
    assert blocks("python")
    shown = {"fit", "detect", "score", "drift", "compare", "dashboard", "configs", "benchmark"}
    assert {words[0] for words in commands()} >= shown


@pytest.mark.parametrize("code", blocks("python"))
def test_each_python_block_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_parses(words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "extending"))  # where a page puts the user's own classes
    if words[0] in ALONE and words[0] != "benchmark":
        import_module(f"lightning_gradood.cli.{words[0]}").parser().parse_args(words[1:])
        return
    text = printed([*words, "--print_config"], capsys)
    for name, value in itertools.pairwise(words):
        if (name.startswith("--detection.mlp.") or name == "--trainer.max_epochs") and "[" not in value:
            assert f"{name.rpartition('.')[2]}: {value}" in text


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`?((?:configs|sweeps|docs|examples|tests)/[\w./-]+\w)`?", PAGES)))
)
def test_each_file_that_is_named_is_there(path):
    assert (ROOT / path).exists()


def test_the_first_command_is_the_one_that_runs_the_main_job():
    first = blocks("bash", README)[0]
    assert "pip install -e ." in first
    assert "python -m lightning_gradood fit --config configs/digits.yaml" in first
