"""A hook of mkdocs: each notebook of the gallery becomes a page, with its outputs and a link to the file."""

import re
from html import escape

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook; the notebook itself stays, to be downloaded."""
    for file in [one for one in files if one.src_uri.endswith(".ipynb")]:
        name = file.src_uri.removesuffix(".ipynb")
        parts = [_cell(one) for one in nbformat.reads(file.content_string, as_version=4).cells]
        link = f'<p><a href="../{name.rpartition("/")[2]}.ipynb" download>Download the notebook</a></p>'
        files.append(File.generated(config, f"{name}.md", content="\n\n".join([*parts, link])))
    return files


def _cell(cell: nbformat.NotebookNode) -> str:
    if cell.cell_type == "markdown":
        return str(cell.source)
    shown = [_output(one) for one in cell.outputs if one.get("name") != "stderr"]
    return "\n\n".join([f"```python\n{cell.source}\n```", *shown])


def _output(output: nbformat.NotebookNode) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="figure" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        return f"<div>{data['text/html']}</div>"
    text = re.sub(r"(?m)^(?:reading|timing|fitting) .*\n?", "", output.get("text", data.get("text/plain", ""))).strip()
    return f"<pre>{escape(text)}</pre>" if text else ""  # without lines of progress
