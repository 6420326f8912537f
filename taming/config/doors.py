"""Public functions that say in one line what is wrong with an argument: what each declares is what
it takes.
"""

import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterable
from typing import Any

from taming.config.build import refusal
from taming.config.hints import fits
from taming.errors import UserError

COLLECTED = (list, tuple, str, bytes, dict)


def checked(function: Callable) -> Callable:
    """The same function; raises UserError for arguments that it does not declare, or of another
    kind than it declares. See `cast` for what is taken besides.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def door(*arguments: Any, **keywords: Any) -> Any:
        hints = typing.get_type_hints(function)
        try:
            bound = signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise UserError(f"{function.__name__}: {error}; see its help()") from None
        for key, value in bound.arguments.items():
            variable = signature.parameters[key].kind in (
                inspect.Parameter.VAR_KEYWORD,
                inspect.Parameter.VAR_POSITIONAL,
            )
            if not variable:
                bound.arguments[key] = cast(value, hints.get(key), f"{function.__name__}: {key}")
        return function(*bound.args, **bound.kwargs)

    return door


def cast(value: Any, hint: Any, place: str) -> Any:
    """The value as its declaration has it: a path as text, a NumPy number or array as Python's, a
    set or a generator as a list, where that is what fits.

    Args:
        value: of an argument.
        hint: its declaration; None admits all.
        place: for messages.

    Raises:
        UserError: the value does not fit.
    """
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{place}: {value[:60]!r} holds a zero byte")
    if hint is None or fits(value, hint):
        return value
    for candidate in _candidates(value):
        if fits(candidate, hint):
            return candidate
    raise UserError(f"{place}: {refusal(value, hint)}")


def _candidates(value: Any) -> Iterable[Any]:
    if isinstance(value, os.PathLike):
        yield os.fspath(value)
    if hasattr(value, "tolist"):
        yield value.tolist()
    elif isinstance(value, Iterable) and not isinstance(value, COLLECTED):
        yield list(value)
