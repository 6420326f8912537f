"""The reference of keys as text, from constructors and docstrings."""

import inspect
import re
import textwrap
import typing
from typing import Any

from taming.config.keys import Key, class_keys, experiment_keys
from taming.config.names import ALIASES, LIBRARIES, class_of, file_classes, resolve
from taming.errors import UserError, did_you_mean

WIDTH, INDENT = 100, "    "


def overview() -> str:
    """Every key that all configurations have, then every class that one may name."""
    groups: dict[str, list[str]] = {}
    for target, made in file_classes().items():
        groups.setdefault(seam_of(made).__name__, []).append(_row(target, made))
    lines = ["Keys of every configuration, as YAML or as key=value on the command line:", ""]
    lines += map(entry, experiment_keys())
    lines += ["", "Classes for `target`; taming keys NAME lists the `params` of one:"]
    for seam in sorted(groups):
        lines += ["", f"{seam}:", *groups[seam]]
    rest = (
        f"In a YAML of your own also {' and '.join(_functions())}, trained models; classes of"
        f" {', '.join(LIBRARIES)}; and those of packages under `allow`."
    )
    return "\n".join([*lines, "", _folded(rest)])


def described(name: str) -> str:
    """A key, the keys of a section, or a class with its parameters; of a seam such as Quantizer
    the classes that may stand there. Raises UserError where there is none of that name.
    """
    keys = list(experiment_keys())
    below = [key for key in keys if key.name == name or key.name.startswith(f"{name}.")]
    if below:
        return "\n".join(map(entry, below))
    made = _functions().get(name) or _classes().get(name.rpartition(".")[2])
    if made is None:
        sections = {key.name.partition(".")[0]: None for key in keys}
        names = [*sections, *(key.name for key in keys), *_classes()]
        hint = did_you_mean(name, names)
        hint = hint if "did you mean" in hint else "; taming keys lists all"
        raise UserError(f"there is no key or class '{name}'{hint}")
    heirs = [one for one in file_classes().items() if issubclass(one[1], class_of(made))]
    if len(heirs) > 1 and inspect.isclass(made) and made not in file_classes().values():
        return "\n".join([f"{made.__name__}:", *(_row(*one) for one in heirs)])
    targets = {one: target for target, one in (file_classes() | _functions()).items()}
    title = targets.get(made, made.__name__)
    entries = list(map(entry, class_keys(made))) or ["no params"]
    return "\n".join([_folded(f"{title}: {summary(made)}"), "", *entries])


def entry(key: Key) -> str:
    """One key: its name, what it may be, its default, and its meaning below."""
    default = "has to be given" if key.required else f"default {as_yaml(key.default)}"
    head = _folded(f"{key.name}: {key.kind}; {default}", after=2 * INDENT)
    return f"{head}\n{_folded(key.text, INDENT, INDENT)}"


def as_yaml(value: Any) -> str:
    """A default as it would be written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_yaml(one)}' for key, one in value.items())}}}"
    return str(value)


def summary(made: Any) -> str:
    """The first sentence of a docstring."""
    paragraph = (inspect.getdoc(made) or "").partition("\n\n")[0]
    sentence = re.split(r"(?<! et al)\. ", " ".join(paragraph.split()))[0]
    return f"{sentence.removesuffix('.')}."


def seam_of(made: type) -> type:
    """What a class stands for: the outermost of its ancestors in this package."""
    return [one for one in made.__mro__ if one.__module__.startswith("taming.")][-1]


def _functions() -> dict[str, Any]:
    """What builds a model from a file, by the names that a YAML has for it."""
    table = file_classes()
    names = [name for name, target in ALIASES.items() if target not in table]
    return {name: resolve(name, "target") for name in names}


def _classes() -> dict[str, type]:
    """By their short names: those of the table, the seams, and what parameters may be besides."""
    classes = {target.rpartition(".")[2]: made for target, made in file_classes().items()}
    seams = {seam_of(made).__name__: seam_of(made) for made in classes.values()}
    parts = [one for made in classes.values() for one in _parameter_classes(made)]
    table = file_classes()
    older = [(name, table[target]) for name, target in ALIASES.items() if target in table]
    aliases = {name.rpartition(".")[2]: made for name, made in older}
    return {**{one.__name__: one for one in parts}, **aliases, **seams, **classes}


def _parameter_classes(made: type) -> list[type]:
    """Classes of ours in what the parameters of `made` declare."""
    hints = typing.get_type_hints(made.__init__).values()
    return [one for hint in hints for one in _ours(hint)]


def _ours(hint: Any) -> list[type]:
    if inspect.isclass(hint) and hint.__module__.startswith("taming."):
        return [hint]
    return [one for inner in typing.get_args(hint) for one in _ours(inner)]


def _row(target: str, made: type) -> str:
    return _folded(f"{target}: {summary(made)}", "  ", 2 * INDENT)


def _folded(text: str, before: str = "", after: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=before, subsequent_indent=after, break_on_hyphens=False
    )
