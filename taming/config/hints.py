"""Does a value fit what a parameter declares? Types, choices, ranges, lengths and classes."""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from taming.config.ranges import Deferred, Length, Range

WORDS = {
    type(None): "null",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    Any: "anything",
}
ClassOf = Callable[[dict], type]  # of a node with a target


def fits(value: Any, hint: Any, class_of: ClassOf | None = None) -> bool:
    """Whether `value` is what `hint` declares. class_of: where trees with a target are looked at,
    the class that one builds; else they are mappings as others.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty or isinstance(hint, typing.TypeVar):
        return True
    if origin is Annotated:
        limits = [limit for limit in arguments[1:] if isinstance(limit, Range | Length)]
        return fits(value, arguments[0], class_of) and all(value in limit for limit in limits)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice, class_of) for choice in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    kind = origin or hint
    if class_of and isinstance(value, dict) and "target" in value:
        return inspect.isclass(hint) and _is_a(class_of(value), hint)
    if kind in (dict, Mapping):
        key, entry = arguments or (Any, Any)
        return isinstance(value, dict) and all(
            fits(k, key, class_of) and fits(v, entry, class_of) for k, v in value.items()
        )
    if hint is None or hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if kind in (list, tuple, Sequence, Iterable):
        return isinstance(value, list | tuple) and _entries_fit(value, kind, arguments, class_of)
    if inspect.isclass(kind) and issubclass(kind, Path):
        return isinstance(value, str | Path)
    return _is_a(type(value), kind) if inspect.isclass(kind) else True


def _is_a(kind: type, hint: type) -> bool:
    if getattr(hint, "_is_protocol", False):
        members = {name for name in vars(hint) if not name.startswith("_")}
        return members | set(getattr(hint, "__annotations__", {})) <= set(dir(kind))
    return issubclass(kind, hint)


def _entries_fit(
    value: list | tuple, kind: Any, arguments: tuple, class_of: ClassOf | None
) -> bool:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(
            fits(entry, hint, class_of) for entry, hint in zip(value, arguments)
        )
    return not arguments or all(fits(entry, arguments[0], class_of) for entry in value)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float holds
        return False


def expectation(hint: Any, value: Any = None) -> str:
    """What `hint` declares, in words: `a whole number of at least 1, or null`. In view of
    `value`, limits that matter for it only are named.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _limited(expectation(arguments[0], value), arguments[1:], value)
    if origin in (typing.Union, types.UnionType):
        choices = [choice for choice in arguments if choice is not Deferred]
        return ", or ".join(expectation(choice, value) for choice in choices)
    if origin is Literal:
        choices = [str(choice) for choice in arguments]
        return f"one of {', '.join(choices)}" if len(choices) > 2 else " or ".join(choices)
    if hint in WORDS:
        return WORDS[hint]
    if origin is tuple and Ellipsis not in arguments:
        return f"[{', '.join(expectation(entry) for entry in arguments)}]"
    if (origin or hint) in (list, tuple, Sequence, Iterable):
        entries = [expectation(entry) for entry in arguments[:1]]
        return ", each ".join(["a list", *entries])
    if (origin or hint) in (dict, Mapping):
        return "a mapping of keys"
    name = getattr(hint, "__name__", str(hint))  # of what is no class
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _limited(words: str, limits: Iterable[Any], value: Any) -> str:
    """`a number`, `a list, each an int` with their limits."""
    for limit in limits:
        if isinstance(limit, Length):
            words = words.replace("a list", f"a list of {limit}", 1)
        elif isinstance(limit, Range):
            words = limit.limit(words, value)
    return words


def shortened(text: str, length: int = 600) -> str:
    """In one line."""
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= length else f"{text[: length - 3]}..."
