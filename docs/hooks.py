"""What `make docs` adds to the pages: the reference, from constructors, docstrings and argparse;
formulas as MathML, so that nothing is fetched when a page is read; and links into the repository,
which a site does not have, as plain text.
"""

import argparse
import html
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
MARK = re.compile(r"^<!-- (\w+)(?: ([\w.]+))? -->$", re.MULTILINE)
MATH = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL | re.IGNORECASE
)
TAG = re.compile(r"\\tag\{(\w+)\}")


# Events of mkdocs


def on_config(config: Any) -> Any:
    """Pages that are not written yet leave the navigation; pages it does not list join Guides."""
    folder = Path(config.docs_dir)
    config.nav = [_present(entry, folder) for entry in config.nav]
    listed = {page for entry in config.nav for page in _pages(entry)}
    (guides,) = (entry["Guides"] for entry in config.nav if "Guides" in entry)
    guides += [page.name for page in sorted(folder.glob("*.md")) if page.name not in listed]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in what a mark such as <!-- keys --> stands for."""
    markdown = MARK.sub(lambda match: MADE[match[1]](match[2]), markdown)
    return LINK.sub(lambda match: _within(match, page.file.src_path), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas become MathML."""
    return MATH.sub(lambda match: as_mathml(html.unescape(match[2]), match[1] == "div"), content)


# Navigation and links


def _present(entry: Any, folder: Path) -> Any:
    """The same entry without the pages that do not exist."""
    ((title, inner),) = entry.items()
    if isinstance(inner, str):
        return entry
    pages = [page if isinstance(page, str) else next(iter(page.values())) for page in inner]
    return {title: [one for one, page in zip(inner, pages) if (folder / page).exists()]}


def _pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    for inner in entry.values():
        yield from [inner] if isinstance(inner, str) else (p for one in inner for p in _pages(one))


def _within(match: re.Match[str], source: str) -> str:
    """A link to a file beside docs/ keeps its words only."""
    address = match[3]
    if "://" in address or address.startswith("mailto:"):
        return match[0]
    target = (ROOT / "docs" / source).parent / address
    return match[0] if target.resolve().is_relative_to(ROOT / "docs") else match[2]


# Formulas


def as_mathml(formula: str, block: bool) -> str:
    """LaTeX -> MathML, which browsers draw themselves."""
    from latex2mathml.converter import convert

    tag = TAG.search(formula)
    made = convert(TAG.sub("", formula).strip(), display="block" if block else "inline")
    if not block:
        return made
    if not tag:
        return f'<div class="formula">{made}</div>'
    return f'<div class="formula" id="equation-{tag[1]}">{made}<span>({tag[1]})</span></div>'


# The reference


def keys_page(_: str | None = None) -> str:
    """Every key that all configurations have, one table a section."""
    from taming.config.keys import experiment_keys

    sections: dict[str, list[Any]] = {}
    for key in experiment_keys():
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    return "\n\n".join(
        f"## {section or 'At the top'}\n\n{key_table(keys)}" for section, keys in sections.items()
    )


def classes_page(_: str | None = None) -> str:
    """Every class that a `target` may name, by what it stands for."""
    from taming.config.names import file_classes
    from taming.config.reference import seam_of

    seams: dict[str, list[tuple[str, type]]] = {}
    for target, made in sorted(file_classes().items()):
        seams.setdefault(seam_of(made).__name__, []).append((target, made))
    parts = []
    for seam in sorted(seams):
        parts += [f"## {seam}", *(class_entry(*one) for one in seams[seam])]
    return "\n\n".join(parts)


def class_entry(target: str, made: type) -> str:
    """A class: what it is, and a table of its parameters."""
    from taming.config.keys import class_keys

    words, _, _ = (inspect.getdoc(made) or "").partition("\nArgs:")
    keys = class_keys(made)
    table = key_table(keys) if keys else "No `params`."
    return f"### {made.__name__} {{ #{made.__name__} }}\n\n`{target}`\n\n{words.strip()}\n\n{table}"


def key_table(keys: Iterable[Any]) -> str:
    """A row for each key: name, what it may be, default, meaning."""
    from taming.config.reference import as_yaml

    lines = ["| key | may be | default | meaning |", "| --- | --- | --- | --- |"]
    for key in keys:
        default = "*has to be given*" if key.required else f"`{as_yaml(key.default) or repr('')}`"
        lines.append(f"| `{key.name}` | {cell(key.kind)} | {default} | {cell(key.text)} |")
    return "\n".join(lines)


def commands_page(_: str | None = None) -> str:
    """Every verb with its arguments."""
    from taming.cli.main import VERBS

    return "\n\n".join(command_entry(name, parser_of(verb)) for name, verb in VERBS.items())


def command_entry(name: str, parser: argparse.ArgumentParser) -> str:
    """A verb: how it is called, what it does, its arguments."""
    words = " ".join(parser.format_usage().removeprefix("usage: ").split())
    usage = textwrap.fill(words, 72, subsequent_indent="    ", break_on_hyphens=False)
    rows = ["| argument | default | meaning |", "| --- | --- | --- |"]
    for action in parser._actions:
        if action.dest == "help" or action.help == argparse.SUPPRESS:
            continue
        value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
        value = " ".join(value) if isinstance(value, tuple) else value
        flags = ", ".join(f"`{flag} {value}`".replace(" `", "`") for flag in action.option_strings)
        empty = action.default in (None, False, [], argparse.SUPPRESS)
        default = "" if empty else f"`{action.default}`"
        words = (action.help or "").replace("%%", "%") % vars(action) if action.help else ""
        rows.append(f"| {cell(flags or f'`{value}`')} | {cell(default)} | {cell(words)} |")
    head = f"## taming {name}\n\n{parser.description or ''}\n\n```\n{usage}\n```"
    return "\n\n".join([head, "\n".join(rows)])


def parser_of(verb: Callable[[list[str]], None]) -> argparse.ArgumentParser:
    """The parser of a verb, which is stopped as soon as it has one."""
    from taming.cli.parser import Parser

    class Stop(BaseException):
        pass

    made: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, words: list[str]) -> None:
        made.append(parser)
        raise Stop

    with mock.patch.object(Parser, "parse", stop):
        try:
            verb([])
        except Stop:
            pass
    return made[0]


def api(package: str | None) -> str:
    """What a package exports, for mkdocstrings."""
    import importlib

    module = importlib.import_module(str(package))
    made = {name: inspect.unwrap(getattr(module, name)) for name in sorted(module.__all__)}
    own = [one for one in made.values() if isinstance(one, type) or inspect.isfunction(one)]
    own = [one for one in own if one.__module__.startswith(str(package))]
    return "\n\n".join(f"::: {one.__module__}.{one.__qualname__}" for one in own)


def modules(package: str | None) -> str:
    """The modules of a package, for mkdocstrings."""
    folder = ROOT.joinpath(*str(package).split("."))
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    return "\n\n".join(f"::: {package}.{name}" for name in names)


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


MADE = {
    "keys": keys_page,
    "classes": classes_page,
    "commands": commands_page,
    "api": api,
    "modules": modules,
}
