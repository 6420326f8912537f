"""Runs notebooks and stores what they show in them: `make notebooks`, or
`python notebooks/store.py 5_vqgan`. Prints seconds by the clock, and those that it computed.
"""

import resource
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def store(path: Path) -> None:
    """Runs a notebook from top to bottom; only if nothing fails it is written, without times."""
    notebook, started, before = nbformat.read(path, as_version=4), time.monotonic(), computed()
    metadata = dict(notebook.metadata)
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "live" in cell.metadata.get("tags", ()):  # what is served while the notebook runs
            cell.outputs = []
    notebook.metadata = nbformat.from_dict(metadata)
    nbformat.write(notebook, path)
    size = path.stat().st_size // 1024
    print(
        f"{path.stem}: {time.monotonic() - started:.0f} s by the clock, {computed() - before:.0f} s"
        f" computed, {size} kB",
        flush=True,
    )


def computed() -> float:
    """Seconds of processors that kernels which have ended took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        store(FOLDER / f"{name}.ipynb")
