"""The README and the pages of the documentation do what they say: their Python runs, their commands parse."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
from tiny import printed

from lightning_gradood.cli.verbs import ALONE

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}
SHOWN = {*ALONE, "fit", "detect", "benchmark"}


def blocks(language, text):
    """The fenced blocks of one language, without those that a file is copied into."""
    found = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [block for block in found if not block.startswith("--8<--")]


def commands(text):
    """The words of every call of the program, continued lines joined, as a shell would split them."""
    text = "\n".join(blocks("bash", text)).replace("\\\n", " ")
    text = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " "), text)  # a quoted value may go over two lines
    calls = [part for line in text.splitlines() for part in re.split(r"&&|;", line) if "-m lightning_gradood " in part]
    words = [shlex.split(call, comments=True) for call in calls]
    return [list(one) for one in dict.fromkeys(tuple(each[each.index("-m") + 2 :]) for each in words)]


def check(words, capsys):
    """Parse a command, and look whether its values arrive; of verbs that would run, look for their flags in the help."""
    text = printed([words[0], "--help"] if words[0] in ALONE else [*words, "--print_config"], capsys)
    if words[0] in ALONE:
        assert [word for word in words if word.startswith("--") and word not in text] == [], words
        return
    for name, value in itertools.pairwise(words):
        if (name.startswith("--detection.mlp.") or name == "--trainer.max_epochs") and "[" not in value:
            assert f"{name.rpartition('.')[2]}: {value}" in text, words


@pytest.mark.parametrize(
    "page", [pytest.param(name, marks=[pytest.mark.slow] if name != "README.md" else []) for name in PAGES]
)
def test_commands_parse_and_python_runs(page, capsys, monkeypatch):
    for code in blocks("python", PAGES[page]):
        exec(compile(code, page, "exec"), {"__name__": "readme"})
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "extending"))  # where a page puts the user's own classes
    for words in commands(PAGES[page]):
        check(words, capsys)


def test_files_that_are_named_are_there_and_every_verb_is_shown():
    text = "\n".join(PAGES.values())
    paths = set(re.findall(r"`?((?:configs|sweeps|docs|examples|tests)/[\w./-]+\w)`?", text))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    assert {words[0] for words in commands(text)} >= SHOWN
    assert blocks("python", PAGES["README.md"])


def test_the_two_set_up_commands_work_alone_wherever_they_are_pasted():
    """Each makes the environment and names its interpreter, so that nothing has to be activated; `.ci/run` runs them."""
    job, tests = (block for block in blocks("bash", PAGES["README.md"]) if "-m venv" in block)
    for block in (job, tests):
        (line,) = [line for line in block.splitlines() if not line.startswith("#")]
        assert re.fullmatch(
            r"python3 -m venv \.venv && \.venv/bin/pip install [^&]+ && \.venv/bin/python -m [^&]+", line
        )
    assert job.endswith(".venv/bin/python -m lightning_gradood fit --config configs/digits.yaml\n")
    assert '-c constraints.txt -e ".[dev]"' in tests
    assert tests.endswith(".venv/bin/python -m pytest\n")
