"""What keys there are: read off the constructors and their docstrings, so that the reference and
the code can't differ.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from taming.config.build import declared
from taming.config.experiment import Experiment
from taming.config.hints import expectation

ARGUMENT = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*)$")


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Args:
        name: dotted for a field of the Experiment, a parameter's name for a class.
        kind: what it may be, in words.
        default: as YAML has it; None where it has to be given or is null.
        required: whether it has to be given.
        text: what the docstring says of it.
    """

    name: str
    kind: str
    default: Any
    required: bool
    text: str


def class_keys(made: Any) -> list[Key]:
    """The parameters of a class that a configuration may name."""
    parameters, hints = declared(made)
    texts = argument_texts(inspect.getdoc(made) or "")
    return [
        Key(
            name,
            expectation(hints[name]) if name in hints else "anything",
            None if parameter.default is parameter.empty else parameter.default,
            parameter.default is parameter.empty,
            texts.get(name, ""),
        )
        for name, parameter in parameters.items()
    ]


def experiment_keys(schema: type = Experiment, place: str = "") -> Iterator[Key]:
    """The fields that every run has, section by section."""
    hints = typing.get_type_hints(schema, include_extras=True)
    texts = argument_texts(inspect.getdoc(schema) or "")
    defaults = dataclasses.asdict(schema())
    for name in defaults:
        if isinstance(hints[name], type) and dataclasses.is_dataclass(hints[name]):
            yield from experiment_keys(hints[name], f"{place}{name}.")
        else:
            kind, text = expectation(hints[name]), texts.get(name, "")
            yield Key(f"{place}{name}", kind, defaults[name], False, text)


def argument_texts(docstring: str) -> dict[str, str]:
    """Name -> text of each argument under `Args:`."""
    texts: dict[str, str] = {}
    names: list[str] = []
    _, _, section = docstring.partition("Args:\n")
    for line in section.splitlines():
        if line.strip() and not line.startswith("    "):
            break  # the next section
        if match := ARGUMENT.match(line):
            names = match[1].split(", ")
            texts |= dict.fromkeys(names, match[2])
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts
