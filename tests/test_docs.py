"""The documentation's site builds without a warning, every room has its page, and the notebook runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOADED = r"""<(?:script|img|link)\b(?![^>]*canonical)[^>]*?\s(?:src|href)=["']?((?:https?:)?//[^"' >]*)"""
ENTRY = r"""<div class="doc doc-object doc-(?:class|function|attribute|module)">.*?<div class="doc doc-contents[^>]*>\s*(.{80})"""
RUN_NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=200).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text", ""), *output.get("data", {}).values())
"""


@pytest.mark.slow
def test_the_site_builds_with_every_public_name_on_its_room_s_page_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]  # warnings are errors
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rooms = {path.parent.name for path in (ROOT / "lightning_gradood").glob("*/__init__.py")} - {"cli"}
    hidden, bare = [], []
    for room in sorted(rooms):
        page = (tmp_path / "api" / room / "index.html").read_text()
        anchors = re.findall(r"""\sid=["']([^"']+)""", page)
        entries = [re.sub(r'<p class="doc doc-class-bases">.*', "<p>", one) for one in re.findall(ENTRY, page, re.S)]
        bare += [f"{room}: {one}" for one in entries if not one.startswith(("<p>", '<div class="highlight'))]
        module = __import__(f"lightning_gradood.{room}", fromlist=["__all__"])
        files = {path.stem for path in (ROOT / "lightning_gradood" / room).glob("*.py")}  # one may hide its function
        public = {name: getattr(module, name) for name in set(module.__all__) - files}
        ours = [name for name, one in public.items() if getattr(one, "__module__", "").startswith("lightning_gradood")]
        named = [name for name in ours if callable(public[name]) and public[name].__doc__]
        hidden += [f"{room}.{one}" for one in named if f"lightning_gradood.{room}.{one}" not in anchors]
    assert (hidden, bare) == ([], [])  # every public name, each with its description
    pages = list(tmp_path.rglob("*.html"))
    assert pages
    assert [(page, found) for page in pages if (found := re.findall(LOADED, page.read_text()))] == []


def test_every_page_is_in_the_navigation():
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text())
    named = set(re.findall(r"[\w/]+\.md", str(yaml.safe_load(text)["nav"])))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - named == {"torch_batch_norm.md"}  # a report to torch's developers


VERDICT = r"\n ?taken for class \d, p-value [01]\.\d{3}, (?:not )?flagged"
NOTEBOOKS = {
    "gradients.ipynb": ["Guard:", "mean log10 of the squared norm", *[VERDICT] * 4],
    "quickstart.ipynb": [
        "`weighted_parts`", "<th>network</th><td>CifarResNet</td>", "of the unknown digit are flagged", "'p_value'", "<svg",
        *["<figure"] * 6, "the same scores: True",
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebooks_run(name, tmp_path):
    shutil.copy(ROOT / "examples" / name, tmp_path)
    done = subprocess.run([sys.executable, "-c", RUN_NOTEBOOK, name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [one for one in NOTEBOOKS[name] if len(re.findall(one, done.stdout)) < NOTEBOOKS[name].count(one)] == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
