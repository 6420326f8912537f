"""One word for one thing: the private vocabulary of earlier versions stays out of the names
(CONTRIBUTING.md, "Words").
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BANNED = frozenset(
    "told found given heard kept shown theirs judged silence how asked surgery patient own"
    " workplace picked".split()
)
SIDES = {"top", "bottom", "right"}  # beside which `left` is the side of a box
FILES = sorted([*ROOT.glob("taming/**/*.py"), *ROOT.glob("benchmarks/*.py")])


def names(node: ast.AST) -> Iterator[str]:
    """The identifiers that a node introduces."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr


def banned(source: str) -> list[str]:
    """`line: name` of every private word among the names of a file."""
    tree, places = ast.parse(source), []
    identifiers = {name for node in ast.walk(tree) for name in names(node)}
    for node in ast.walk(tree):
        for name in names(node):
            words = set(name.lower().split("_"))
            if words & BANNED or ("left" in words and not identifiers & SIDES):
                places.append(f"{getattr(node, 'lineno', 0)}: {name}")
    return places


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_the_fields_words(path):
    assert banned(path.read_text()) == []


@pytest.mark.parametrize(
    "source, count",
    [
        ("told = 1", 1),
        ("def judged(): pass", 1),
        ("self.kept_codes = 1", 1),
        ("left = 1", 1),
        ("left, top = 1, 2", 0),
        ("codebook = found()", 0),
    ],
)
def test_a_private_word_is_seen(source, count):
    assert len(banned(source)) == count
