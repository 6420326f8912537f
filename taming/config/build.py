"""target/params -> object: names are looked up, parameters checked against what the constructor
declares, then built.
"""

import inspect
import re
import typing
from collections.abc import Iterable
from functools import partial
from typing import Any

from taming.config.allocation import within_memory
from taming.config.hints import expectation, fits, shortened
from taming.config.names import class_of, resolve
from taming.config.ranges import Deferred, Read
from taming.config.seams import advice, check_members
from taming.errors import UserError, did_you_mean, first_line

# What constructors raise where values fit their declarations one by one but not together
MISTAKES = (
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    AssertionError,
    OSError,
    MemoryError,
)

NO_MEMORY = ("can't allocate memory", "integer multiplication overflow", "exceeds the maximum")

SIZE = re.compile(r"[1-9]\d{0,8}[xX][1-9]\d{0,8}")


def check(node: Any, place: str, allow: Iterable[str] = (), trusted: bool = True) -> None:
    """Walks a tree of target/params and checks each against the signature of its constructor,
    without building anything.

    Args:
        node: a tree of plain types
        place: where it stands, for messages
        allow: further packages whose classes may be named; from the caller, never from a file
        trusted: false for a tree from a file, which names classes of a closed table only
    """
    if isinstance(node, list):
        for i, item in enumerate(node):
            check(item, f"{place}[{i}]", allow, trusted)
    if not isinstance(node, dict):
        return
    if "target" not in node:
        for key, value in node.items():
            if not trusted and _names_a_class(value):
                raise UserError(f"{place}.{key}: a class stands where a file has plain values only")
            check(value, f"{place}.{key}", allow, trusted)
        return
    for key in node:
        if key not in ("target", "params"):
            raise UserError(
                f"{place}.{key}: unknown key beside target{did_you_mean(key, ['target', 'params'])}"
            )
    params = node.get("params") or {}
    if not isinstance(params, dict):
        raise UserError(f"{place}.params: {_brief(params)} should be a mapping of keys")
    made = resolve(node["target"], place, allow, trusted)
    for key, value in params.items():
        check(value, f"{place}.params.{key}", allow, trusted)
    _check_signature(made, params, f"{place}.params", allow, trusted)


def with_sizes(node: Any, place: str, allow: Iterable[str] = (), trusted: bool = True) -> Any:
    """The same tree with every 96x128 as [96, 128] where a parameter declares a list of two."""
    if isinstance(node, list):
        return [with_sizes(item, place, allow, trusted) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: with_sizes(value, place, allow, trusted) for key, value in node.items()}
    if "target" not in node or not isinstance(node.get("params"), dict):
        return node
    _, hints = declared(resolve(node["target"], place, allow, trusted))
    for key, value in node["params"].items():
        hint = hints.get(key, Any)
        if isinstance(value, str) and SIZE.fullmatch(value) and not fits(value, hint):
            sides = [int(side) for side in value.lower().split("x")]
            node["params"][key] = sides if fits(sides, hint) else value
    return node


def _names_a_class(node: Any) -> bool:
    """Whether it is a node with a target, or a list of such."""
    if isinstance(node, list):
        return any(map(_names_a_class, node))
    return isinstance(node, dict) and "target" in node


def build(
    node: Any,
    allow: Iterable[str] = (),
    place: str = "model",
    trusted: bool = True,
    copies: int = 1,
) -> Any:
    """The object that a target/params tree describes, checked first; inner trees are built first.
    Arguments as for `check`, `copies` as for `within_memory`.
    """
    check(node, place, allow, trusted)
    return within_memory(partial(_built, node, place, allow, trusted), place, copies)


def _built(node: Any, place: str, allow: Iterable[str], trusted: bool) -> Any:
    if isinstance(node, list):
        return [_built(item, f"{place}[{i}]", allow, trusted) for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "target" not in node:
        return {k: _built(value, f"{place}.{k}", allow, trusted) for k, value in node.items()}
    made = resolve(node["target"], place, allow, trusted)
    hints, params = declared(made)[1], {}
    for key, value in (node.get("params") or {}).items():
        build_value = partial(_built, value, f"{place}.params.{key}", allow, trusted)
        deferred = isinstance(value, dict) and Deferred in typing.get_args(hints.get(key))
        params[key] = Deferred(build_value) if deferred else build_value()
        check_members(params[key], f"{place}.params.{key}")
    if not trusted and place.startswith("model"):
        _refuse_reading(made, params, place)
    if not inspect.isclass(made):  # `pretrained`: its file may name what this caller admits
        params = {"allow": tuple(allow), **params}
    try:
        return made(**params)
    except UserError as error:  # our own classes say what is wrong, not always where
        reason = shortened(str(error))
        named = reason.startswith(place.split(".")[0])
        raise UserError(reason if named else f"{place}: {reason}") from error
    except MISTAKES as error:
        reason = shortened(first_line(error)) or type(error).__name__
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            reason = "one tensor of it takes more memory than there is; make it smaller"
        raise UserError(f"{place}: {node['target']}: {reason}") from error


def _refuse_reading(made: Any, params: dict, place: str) -> None:
    """A file describes a model whole: it opens no other file of this machine."""
    _, hints = declared(made)
    for key, value in params.items():
        if isinstance(value, str) and _is_read(hints.get(key)):
            raise UserError(
                f"{place}.params.{key}: the model of a file names the file {_brief(value)}, which"
                " is not opened; write what it holds into the checkpoint"
            )


def _is_read(hint: Any) -> bool:
    """Whether a declaration admits the path of a file that is read."""
    return any(isinstance(one, Read) or _is_read(one) for one in typing.get_args(hint))


def declared(made: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters of a constructor or function, and what they declare."""
    if inspect.isclass(made) and made.__init__.__module__.startswith("torch.nn."):
        return {}, {}  # a network that adds no constructor to torch's, which takes anything
    try:
        parameters = inspect.signature(made).parameters
    except ValueError:  # some classes written in C have none to read
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}, {}
    try:
        hints = typing.get_type_hints(
            made.__init__ if inspect.isclass(made) else made, include_extras=True
        )
    except NameError:  # a name that only type checkers see
        hints = {}
    return dict(parameters), hints


def _check_signature(
    made: Any, params: dict, place: str, allow: Iterable[str], trusted: bool
) -> None:
    def class_of_node(node: dict) -> type:
        return class_of(resolve(node["target"], place, allow, trusted))

    parameters, hints = declared(made)
    keywords = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in params.items():
        if key not in parameters and not keywords:
            raise UserError(f"{place}.{key}: unknown key{did_you_mean(key, parameters)}")
        if key in hints and not fits(value, hints[key], class_of_node):
            raise UserError(f"{place}.{key}: {refusal(value, hints[key])}")
        if isinstance(value, dict) and "target" not in value:
            for inner in _classes(hints.get(key)):  # a mapping stands for its parameters
                _check_signature(inner, value, f"{place}.{key}", allow, trusted)
    for key, parameter in parameters.items():
        if (
            parameter.default is parameter.empty
            and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and key not in params
        ):
            raise UserError(
                f"{place}.{key}: missing, and {getattr(made, '__name__', made)} has no"
                " default for it"
            )


def _classes(hint: Any) -> list[type]:
    """The classes of ours that a declaration admits."""
    if inspect.isclass(hint) and hint.__module__.startswith("taming."):
        return [hint]
    return [made for inner in typing.get_args(hint) for made in _classes(inner)]


def refusal(value: Any, hint: Any) -> str:
    """What `value` is and what it should be."""
    if isinstance(value, dict) and "target" in value:
        return f"a {str(value['target']).rpartition('.')[2]} stands here; it should be" + (
            f" {expectation(hint)}{advice(hint)}"
        )
    choices = [c for c in _literals(hint) if isinstance(c, str)]
    guess = did_you_mean(value, choices) if choices and isinstance(value, str) else ""
    guess = guess if "did you mean" in guess else ""
    return f"{_brief(value)} should be {expectation(hint, value)}{guess}"


def _literals(hint: Any) -> list:
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [choice for inner in typing.get_args(hint) for choice in _literals(inner)]


def _brief(value: Any) -> str:
    return shortened(repr(value), 60)
