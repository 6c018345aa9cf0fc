"""The notebooks: committed without outputs, public names only, run to the end without network and show a picture.

A notebook works without ipywidgets as well. Its code cells up to the last that names ipywidgets are run here without
it, in this process: put the sliders before anything that takes long.
"""

import ast
import base64
import io
import re
import runpy
import sys
from pathlib import Path

import IPython.display
import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
stripped = runpy.run_path(str(ROOT / "scripts" / "strip_notebooks.py"))["stripped"]
WHICH_PYTHON = "import sys\n\nprint(sys.executable)"
SHORTER = {  # runs of a tenth of their steps do all that these do
    "01_reconstruct": {"steps=120": "steps=12", "val_every=120": "val_every=12"},
    "03_your_own_images": {"steps=80, val_every=40": "steps=8, val_every=4", "(0, 80)": "(0, 8)"},
    "05_satellite": {"range(600)": "range(200)", "steps=150, val_every=50": "steps=15, val_every=5"},
    "06_microscopy": {"range(600)": "range(150)", "steps=150, val_every=50": "steps=15, val_every=5"},
}


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    """Of every code cell its source."""
    return [cell.source for cell in read(path).cells if cell.cell_type == "code"]


def private(tree):
    """Names in the code that begin with an underscore and come from elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [part for alias in node.names for part in alias.name.split(".")]
            names += (getattr(node, "module", None) or "").split(".")
        else:
            continue
        yield from (name for name in names if name.startswith("_") and not name.endswith("__"))


def test_there_are_notebooks():
    assert "01_reconstruct" in {path.stem for path in NOTEBOOKS}


@every
def test_is_committed_without_outputs_counts_and_editors_notes(path):
    text = path.read_text(encoding="utf-8")
    nbformat.validate(read(path))
    assert text == stripped(text), f"python scripts/strip_notebooks.py {path.relative_to(ROOT)}"


def test_stripping_leaves_what_people_wrote_and_takes_the_rest():
    output = nbformat.v4.new_output("stream", text="3\n")
    cells = [
        nbformat.v4.new_markdown_cell("Words", id="a", metadata={"editable": False}),
        nbformat.v4.new_code_cell("1 + 2", id="b", metadata={"tags": ["x"]}, outputs=[output], execution_count=7),
    ]
    mine = {"kernelspec": {"name": "mine", "display_name": "Mine"}, "language_info": {"name": "python", "version": "3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=mine | {"toc": {}})
    found = nbformat.reads(stripped(nbformat.writes(notebook)), as_version=4)
    assert [(cell.id, cell.source, dict(cell.metadata)) for cell in found.cells] == [
        ("a", "Words", {}),
        ("b", "1 + 2", {}),
    ]
    assert (found.cells[1].outputs, found.cells[1].execution_count) == ([], None)
    assert found.metadata.kernelspec.name == "python3"
    assert set(found.metadata) == {"kernelspec", "language_info"}
    assert set(found.metadata.language_info) == {"name"}


@every
def test_uses_public_names_only(path):
    trees = [ast.parse(source) for source in code(path)]
    assert [name for tree in trees for name in private(tree)] == []


@pytest.mark.parametrize(
    "source", ["import mimsuite._x", "from mimsuite._x import y", "from mimsuite import _y", "mimsuite.cli._z()"]
)
def test_private_names_are_seen(source):
    assert len(list(private(ast.parse(source)))) == 1


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty folder to run in, without the user's Jupyter settings, and no way to the network."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("WANDB_MODE", raising=False)  # as it is for users: offline without a key
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def shorten(notebook, changes):
    """Replaces texts that stand once each in the code of a notebook."""
    for old, new in changes.items():
        (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source)
        cell.source = cell.source.replace(old, new)


@every
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_runs_and_shows_a_picture(path, offline):
    notebook = read(path)
    shorten(notebook, SHORTER.get(path.stem, {}))
    notebook.cells.append(nbformat.v4.new_code_cell(WHICH_PYTHON))
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(offline)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).load()
    streams = [output for output in outputs if output.output_type == "stream"]
    assert [output.text for output in streams if output.name == "stderr"] == []
    said = "".join(output.text for output in streams)
    assert said.splitlines()[-1] == sys.executable
    assert list(offline.iterdir()) == []


def run_up_to_sliders(path, show):
    """Runs the code cells up to the last that names ipywidgets; returns their names.

    Args:
        path: of the notebook.
        show: what stands for `display` in that last cell.
    """
    cells = code(path)
    last = max((number for number, source in enumerate(cells) if "ipywidgets" in source), default=None)
    if last is None:
        pytest.skip(f"{path.stem} has no sliders")
    names = {"__name__": "__main__"}
    for number, source in enumerate(cells[: last + 1]):
        if number == last:
            names["display"] = show
        exec(compile(source, f"{path.name}, code cell {number + 1}", "exec"), names)
    return names


@every
@pytest.mark.slow
def test_shows_pictures_without_ipywidgets_too(path, offline, monkeypatch):
    shown = []
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # its import fails
    monkeypatch.setattr(IPython.display, "display", lambda picture: None)
    run_up_to_sliders(path, shown.append)
    assert any(isinstance(picture, Image.Image) for picture in shown)
    assert list(offline.iterdir()) == []


@pytest.mark.slow
def test_moving_a_slider_draws_other_pictures_and_scores(offline, monkeypatch):
    monkeypatch.setattr(IPython.display, "display", lambda picture: None)
    names = run_up_to_sliders(ROOT / "notebooks" / "01_reconstruct.ipynb", lambda box: None)
    seen = {(names["screen"].value, names["scores"].value)}
    for knob, value in {"ratio": 0.3, "unit": 8, "mask": "grid", "seed": 5}.items():
        names["knobs"][knob].value = value
        seen.add((names["screen"].value, names["scores"].value))
    assert len({picture for picture, _ in seen}) == len({scores for _, scores in seen}) == 5
    for picture, scores in seen:
        Image.open(io.BytesIO(picture)).load()
        assert re.fullmatch(r"masked loss 0\.\d{3}, PSNR \d+\.\d dB", scores)
