"""Floors: a module imports only from floors below, or from its own without a circle (README, "How the code is laid out")."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "taming"
FLOORS = {  # the longest prefix that matches decides
    "taming.errors": 0,
    "taming.config": 0,
    "taming.images": 0,
    "taming.first_stage.interface": 1,
    "taming.first_stage.normalization": 1,
    "taming.first_stage.resnet": 1,
    "taming.first_stage.strided": 1,
    "taming.first_stage.likelihood": 1,
    "taming.first_stage.discriminator": 1,
    "taming.first_stage.perceptual": 1,
    "taming.second_stage.interface": 1,
    "taming.second_stage.permuters": 1,
    "taming.published": 1,
    "taming.first_stage": 2,
    "taming.second_stage.gpt": 2,
    "taming.second_stage.pixelcnn": 2,
    "taming.second_stage.pixelsnail": 2,
    "taming.second_stage.heard": 2,
    "taming.checkpoint": 2,
    "taming.data": 3,
    "taming.second_stage": 3,
    "taming.training": 4,
    "taming.first_stage.training": 4,
    "taming.second_stage.training": 4,
    "taming.second_stage.codes": 4,
    "taming.callbacks": 4,
    "taming.run": 4,
    "taming.data.module": 4,
    "taming.evaluation": 4,
    "taming.cli": 5,
    "taming.demo": 5,
    "taming.drawing": 5,
    "taming.compression": 5,
    "taming.measuring": 5,
    "taming": 5,
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def floor(name: str) -> int:
    parts = name.split(".")
    return next(FLOORS[".".join(parts[:n])] for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in FLOORS)


def imported(path: Path) -> set[str]:
    return imported_by(ast.parse(path.read_text()))


def imported_by(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {
                f"{node.module}.{a.name}" for a in node.names if (PACKAGE.parent / f"{node.module}.{a.name}".replace(".", "/")).with_suffix(".py").is_file()
            }
            names |= submodules or {node.module}
    return names


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_downwards(path):
    own = module_name(path)
    for name in imported(path):
        if name.split(".")[0] == "taming" and own != "taming":
            assert floor(name) <= floor(own), f"{own} (floor {floor(own)}) imports {name} (floor {floor(name)})"
        assert name.split(".")[0] != "main"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_stages_and_libraries_keep_to_their_rooms(path):
    own, names = module_name(path), imported(path)
    roots = {name.split(".")[0] for name in names}
    if own.startswith("taming.first_stage"):
        assert not any(n.startswith(("taming.second_stage", "taming.data")) for n in names)
    if own.startswith("taming.second_stage") and not own.endswith(("training", "codes")):
        assert {n for n in names if n.startswith("taming.first_stage")} <= {"taming.first_stage.interface"}
    if "wandb" in roots:
        assert own in ("taming.callbacks", "taming.cli")
    if roots & {"lpips", "stlpips_pytorch"}:
        assert own in ("taming.first_stage.perceptual", "taming.evaluation.features")
    if "pytorch_lightning" in roots:
        assert floor(own) >= 4


def test_no_circles():
    """Imports at the top of modules have an order (those inside functions wait until all are there)."""
    names = {module_name(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        top = ast.Module([node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        graph[module_name(path)] = imported_by(top) & names
    assert list(TopologicalSorter(graph).static_order())


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from taming.cli import main; main(['--help']); main(['train', '--help']); sys.exit('torch' in sys.modules or 'omegaconf' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
