"""The documentation's site builds without a warning, every room has its page, and the gallery runs."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
LOADED = r"""<(?:script|img|link)\b(?![^>]*canonical)[^>]*?\s(?:src|href)=["']?((?:https?:)?//[^"' >]*)"""
ENTRY = r"""<div class="doc doc-object doc-(?:class|function|attribute|module)">.*?<div class="doc doc-contents[^>]*>\s*(.{80})"""


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


GALLERY = sorted((ROOT / "docs" / "gallery").glob("*.ipynb"))
SEEN = {  # what a reader should see in each notebook, as stored and as executed anew
    "digits": ["Guard: `weighted_parts`", "of the unknown digit", "'p_value'", "<svg", *["<figure"] * 6, "same scores: True"],
    "torchvision_network": ["Guard: `mahalanobis_pp`", r"china.jpg +\d", *["of the nines are"] * 3],
    "hugging_face_network": ["Guard: `(?:energy|mahalanobis_pp)`", r"(?:china|flower).jpg: taken for \d"],
    "own_detector": ["Guard: `cosine_to_classes`", "Guard: `energy`"],
    "gradient_norms": [r"relative difference: \d.*e-\d\d", "image/png", r"all_ones +\d"],
    "drift_over_a_week": ["Mon: ", r"alarm at image \d+, on (?:Thu|Fri|Sat|Sun)", "image/png"],
}  # fmt: skip


def unseen(name, cells):
    """What a notebook's outputs lack."""
    outputs = [one for cell in cells for one in cell.get("outputs", [])]
    text = "\n".join(" ".join([one.get("text", ""), *map(str, one.get("data", {}).items())]) for one in outputs)
    return [f"{name}: {one}" for one in SEEN[name] if len(re.findall(one, text)) < SEEN[name].count(one)]


def test_the_gallery_is_stored_with_its_outputs_in_small_files():
    assert {path.stem for path in GALLERY} == SEEN.keys()
    assert [path.name for path in GALLERY if path.stat().st_size > 300_000] == []
    assert [one for path in GALLERY for one in unseen(path.stem, nbformat.read(path, 4).cells)] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebooks_run(tmp_path):
    """All in one kernel, which imports once; that of Hugging Face where transformers is installed."""
    paths = [path for path in GALLERY if path.stem != "hugging_face_network" or find_spec("transformers")]
    books = [nbformat.read(path, 4) for path in paths]
    cells = [cell for book in books for cell in [nbformat.v4.new_code_cell("%reset -f"), *book.cells]]
    for place, cell in enumerate(cells):
        cell.id = f"cell-{place}"
    whole = nbformat.v4.new_notebook(metadata=books[0].metadata, cells=cells)
    NotebookClient(whole, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    missing = []
    for path, book in zip(paths, books, strict=True):
        missing += unseen(path.stem, whole.cells[1 : len(book.cells) + 1])
        del whole.cells[: len(book.cells) + 1]
    assert (missing, [*tmp_path.iterdir()]) == ([], [])
