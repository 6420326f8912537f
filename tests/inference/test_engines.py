"""The recipes for batch engines, on their local mode: killed in the middle once, and finished."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming.data.views import View
from taming.inference.engine import BatchEncoder
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A first stage, and a parquet of the paths of 96 pictures."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    root = tmp_path_factory.mktemp("engines")
    run.train(experiment_of(first_stage_plain(max_steps=1, pictures_every=9)), root / "first")
    (root / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for number in range(96):
        pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / f"{number:03d}.png")
    paths = sorted(map(str, (root / "pictures").iterdir()))
    parquet.write_table(pyarrow.table({"path": paths}), root / "paths.parquet")
    return root


def start(place: Path, recipe: str, out: Path, *words: str) -> subprocess.Popen:
    checkpoint = str(place / "first" / "checkpoints" / "last.ckpt")
    command = [sys.executable, str(RECIPES / recipe), checkpoint, str(place / "paths.parquet")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(RECIPES.parents[1]), os.environ.get("PYTHONPATH", "")]),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "RAY_TMPDIR": "/tmp",  # paths of its sockets have to be short
        "RAY_worker_niceness": "0",  # or its workers wait for everything else on this machine
    }
    return subprocess.Popen(
        [*command, str(out), "--size", "16", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_below(number: int) -> list[int]:
    """All descendants of a process."""
    try:
        words = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return []
    return [one for word in words for one in (int(word), *processes_below(int(word)))]


def kill_when_something_is_there(process: subprocess.Popen, out: Path) -> None:
    while not list(out.glob("*.parquet")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    for one in [process.pid, *processes_below(process.pid)]:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.communicate()


@pytest.mark.parametrize(
    "package, recipe, words",
    [
        ("ray", "ray_encode.py", ("--actors", "1", "--batch", "4")),
        ("pyspark", "spark_encode.py", ("--partitions", "24")),
    ],
)
def test_a_recipe_killed_in_the_middle_is_finished_by_a_second_start(
    place, tmp_path, package, recipe, words
):
    pytest.importorskip(package)
    if package == "pyspark" and not shutil.which("java"):
        pytest.skip("Spark needs Java")
    from pyarrow import parquet

    out = tmp_path / "out"
    out.mkdir()
    kill_when_something_is_there(start(place, recipe, out, *words), out)
    before = len(list(out.glob("*.parquet")))
    assert before < 24, "it was killed in the middle"
    process = start(place, recipe, out, *words)
    text = process.communicate(timeout=400)[0]
    assert process.returncode == 0, text
    rows = [row for file in out.glob("*.parquet") for row in parquet.read_table(file).to_pylist()]
    assert sorted(row["path"] for row in rows) == sorted(map(str, (place / "pictures").iterdir()))
    paths = [row["path"] for row in rows]
    expected = BatchEncoder(str(place / "first"), View(16).size)(paths)
    for row, codes in zip(rows, expected["codes"]):
        assert row["problem"] == "" and list(row["codes"]) == codes.tolist()
