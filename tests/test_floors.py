"""Floors are folders: a room imports from floors below or from itself, never up, never in a circle
(CONTRIBUTING.md, "Floors"). Imports inside functions and in package `__init__` files count.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "taming"
FLOORS = [
    {"errors"},
    {"files"},
    {"allocator", "precision", "weights"},
    {"attention", "images", "products"},
    {"config"},
    {"first_stage", "data", "segmenter"},
    {"second_stage"},
    {"formats"},
    {"inference"},
    {"evaluation"},
    {"training"},
    {"demo", "studio"},
    {"cli", ""},  # "" is taming/__init__.py, which may name anybody
    {"__main__"},
]
ONLY_IN = {  # libraries that live in one place
    "pytorch_lightning": ("taming.training",),
    "wandb": ("taming.training.loggers",),
    "lpips": ("taming.first_stage.perceptual", "taming.evaluation.features"),
    "stlpips_pytorch": ("taming.first_stage.perceptual", "taming.evaluation.features"),
}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file, package `__init__` files under their package's name."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in sorted(package.rglob("*.py"))
    }


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Dotted names of all modules that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            yield from submodules or {node.module}


def room(name: str) -> str:
    """taming.first_stage.gpt -> first_stage"""
    return name.split(".")[1] if "." in name else ""


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room(name) in rooms:
            return number
    raise AssertionError(f"{name} has no floor; give '{room(name)}' one in FLOORS")


def broken_rules(package: Path) -> list[str]:
    """One line for each import that the house forbids."""
    files, broken, graph = modules(package), [], {}
    for own, path in files.items():
        graph[own] = set()
        for name in imports(path, files):
            root = name.split(".")[0]
            if root in ONLY_IN and not own.startswith(ONLY_IN[root]):
                broken.append(f"{own} imports {name}, which belongs in {ONLY_IN[root]}")
            if root != package.name:
                continue
            if name in files and name != own:
                graph[own].add(name)
            upward = floor(name) >= floor(own) and room(name) != room(own)
            if upward and not (own == package.name or name == package.name):
                broken.append(f"{own} (floor {floor(own)}) imports {name} (floor {floor(name)})")
            through_the_seam = name.endswith(".interface") or own.endswith("__init__")
            if (room(own), room(name)) == ("second_stage", "first_stage") and not through_the_seam:
                broken.append(f"{own} imports {name}; it sees first_stage.interface only")
    graph.pop(package.name)
    for own in graph:
        graph[own].discard(package.name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        broken.append(f"a circle: {' -> '.join(error.args[1])}")
    return broken


def test_the_house_stands():
    assert broken_rules(PACKAGE) == []


@pytest.fixture
def house(tmp_path) -> Path:
    """A small package in which nothing is wrong yet."""
    for name in ("first_stage", "second_stage", "formats", "training"):
        (tmp_path / "taming" / name).mkdir(parents=True)
        (tmp_path / "taming" / name / "__init__.py").write_text("")
    (tmp_path / "taming" / "__init__.py").write_text("")
    (tmp_path / "taming" / "errors.py").write_text("")
    (tmp_path / "taming" / "first_stage" / "interface.py").write_text("import taming.errors\n")
    (tmp_path / "taming" / "first_stage" / "vqgan.py").write_text("")
    (tmp_path / "taming" / "formats" / "load.py").write_text("from taming import first_stage\n")
    return tmp_path / "taming"


PLANTED = {
    "at the top": ("first_stage/vqgan.py", "from taming.formats.load import load\n"),
    "in a function": ("first_stage/vqgan.py", "def f():\n    import taming.formats.load\n"),
    "in __init__": ("first_stage/__init__.py", "from taming.formats import load\n"),
    "next door": ("errors.py", "from taming import first_stage\n"),
    "past the seam": ("second_stage/gpt.py", "from taming.first_stage.vqgan import VQGAN\n"),
    "Lightning": ("formats/load.py", "def f():\n    import pytorch_lightning as pl\n"),
    "wandb": ("training/module.py", "import wandb\n"),
    "a circle": (
        "first_stage/interface.py",
        "def f():\n    from taming.first_stage import vqgan\n",
    ),
}


def test_nothing_is_wrong_before_planting(house):
    assert broken_rules(house) == []


@pytest.mark.parametrize("place", PLANTED)
def test_a_planted_import_is_seen(house, place):
    file, text = PLANTED[place]
    if place == "a circle":
        (house / "first_stage" / "vqgan.py").write_text("import taming.first_stage.interface\n")
    (house / file).write_text(text)
    assert broken_rules(house)


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has after `code`."""
    code = (
        f"import contextlib, io, sys\nwith contextlib.redirect_stdout(io.StringIO()):\n    {code}"
    )
    code += "\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code, absent",
    [
        ("import taming.first_stage.interface", {"taming.formats"}),
        ("import taming.evaluation.comparison, taming.evaluation.doctor", {"pytorch_lightning"}),
        ("import taming; dir(taming)", {"torch", "omegaconf"}),
        (
            "from taming.cli.main import main; main(['--help']); main(['train', '--help'])",
            {"torch", "omegaconf"},
        ),
        (
            "from taming.cli.main import VERBS, main; [main([v, '--help']) for v in VERBS]",
            {"torch", "torchvision", "pytorch_lightning"},
        ),
    ],
    ids=["interface", "report and doctor", "taming", "help", "help of each verb"],
)
def test_what_an_import_leaves_out(code, absent):
    assert not loaded_by(code) & absent
