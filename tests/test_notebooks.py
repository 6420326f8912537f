"""Every notebook runs from top to bottom, and shows what its stored outputs show: the same kinds of
outputs, pictures that are alike.
"""

import ast
import base64
import importlib
import io
from importlib.util import find_spec
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
ALIKE = 0.1  # mean absolute difference of grey values in [0, 1], of pictures made small
LARGEST = 900_000  # bytes of a notebook with its pictures


def pictures(cell):
    """The PNGs that a cell shows, grey, 24 x 24, in [0, 1]."""
    outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
    files = [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]
    small = [Image.open(io.BytesIO(file)).convert("L").resize((24, 24)) for file in files]
    return [np.asarray(picture) / 255 for picture in small]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def stored_cells(path):
    """The code cells of a notebook, which has outputs."""
    cells = code_cells(nbformat.read(path, as_version=4))
    assert any(cell.outputs for cell in cells), "nothing is stored: make notebooks"
    return cells


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_stored(path):
    cells = stored_cells(path)
    assert sum(len(pictures(cell)) for cell in cells) >= 2
    assert path.stat().st_size < LARGEST
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}, "no error is stored"
    assert not any(o.get("name") == "stderr" for cell in cells for o in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_is_imported_exists(path):
    """All else is for the slow test, which runs the cells."""
    cells = code_cells(nbformat.read(path, as_version=4))
    for node in ast.walk(ast.parse("\n".join(cell.source for cell in cells))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_and_shows_what_it_showed(path):
    stored = stored_cells(path)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    for before, after in zip(stored, code_cells(notebook)):
        old, new = pictures(before), pictures(after)
        assert len(old) == len(new), before.source
        for a, b in zip(old, new):
            assert np.abs(a - b).mean() < ALIKE, before.source
