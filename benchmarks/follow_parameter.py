"""Follows `--temperature` of one `taming sample` through the package, and counts how often a reader
would have to turn back.

    python benchmarks/follow_parameter.py [CHECKOUT]

Every distinct call (caller -> callee, both of the package) counts whose callee has the parameter
among its arguments: as itself, or inside an object, a dictionary or a list. A file stands above all
that it imports.

- down: into a file below, or to a definition further down in the same file
- back, within a file: to a definition further up, or a recursion
- climbs: into a file that does not stand below (a callback, a circle)
- visits: how many of these calls enter each file
"""

import ast
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

VALUE = 0.8765  # of the temperature: nothing else has it
TRIES = 3  # a call is looked into so often, because looking is slow


def imports(path: Path, root: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("taming"):
            base = root.joinpath(*str(node.module).split("."))
            for alias in node.names:
                package, module = base / alias.name / "__init__.py", base / f"{alias.name}.py"
                for file in (module, package, base.with_suffix(".py"), base / "__init__.py"):
                    if file.is_file():
                        yield file
                        break


def holds(value: Any, depth: int = 2) -> bool:
    """Whether the parameter is in there."""
    if isinstance(value, float) or depth == 0:
        return isinstance(value, float) and value == VALUE
    if isinstance(value, dict):
        return any(holds(entry, depth - 1) for entry in value.values())
    if isinstance(value, list | tuple):
        return len(value) < 50 and any(holds(entry, depth - 1) for entry in value)
    plain = type(value).__module__.startswith(("taming", "argparse")) and hasattr(value, "__dict__")
    if not plain or "_modules" in vars(value):
        return False
    return any(holds(entry, depth - 1) for entry in vars(value).values())


def trace(package: str, edges: set, words: list[str]) -> None:
    from taming.cli import main

    tries: Counter = Counter()

    def watch(frame, event: str, argument: Any) -> None:
        caller = frame.f_back
        if event != "call" or not frame.f_code.co_filename.startswith(package):
            return
        while caller is not None and not caller.f_code.co_filename.startswith(package):
            caller = caller.f_back
        if caller is None or caller.f_code.co_name == "<module>":
            return
        edge = caller.f_code, frame.f_code
        tries[edge] += 1
        if edge not in edges and tries[edge] <= TRIES:
            if any(holds(value) for value in list(frame.f_locals.values())):
                edges.add(edge)

    sys.setprofile(watch)
    code = main(words)
    sys.setprofile(None)
    assert code == 0


def report(root: Path) -> None:
    package, edges = root / "taming", set()

    @cache
    def below(path: Path) -> frozenset[Path]:
        files = {file for file in imports(path, root) if file != package / "__init__.py"}
        return frozenset(files.union(*(below(file) for file in files)))

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        from PIL import Image

        Image.new("L", (64, 64)).save("layout.png")
        words = ["sample", "landscapes", "--masks", "layout.png", "-o", "out", "--size", "16x16"]
        trace(str(package), edges, [*words, "--temperature", str(VALUE)])
        os.chdir("/")
    kinds, visits = Counter(), Counter()
    for caller, callee in edges:
        above, file = Path(caller.co_filename), Path(callee.co_filename)
        visits[file.relative_to(package).as_posix()] += 1
        if above == file:
            down = callee.co_firstlineno > caller.co_firstlineno
            kind = "down" if down else "back, within a file"
        else:
            kind = "down" if file in below(above) else "climbs"
        kinds[kind] += 1
        if kind != "down":
            print(f"{kind}: {caller.co_qualname} -> {file.name}:{callee.co_qualname}")
    print(dict(kinds))
    print("visits:", dict(visits.most_common(8)))


if __name__ == "__main__":
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    sys.path.insert(0, str(checkout))
    report(checkout)
