"""target/params -> object: names are looked up, parameters checked against signatures, then built."""

import importlib
import inspect
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from taming.errors import UserError, did_you_mean, first_line

PACKAGES = ("taming", "torchvision")
ALIASES = {  # names of earlier versions, which stand in checkpoints and in people's YAML
    "taming.first_stage.pretrained": "taming.formats.pretrained.pretrained",
    "taming.evaluation.Segmenter": "taming.segmenter.Segmenter",
    "taming.first_stage.ScalarQuantizer": "taming.first_stage.FSQ",
    "taming.first_stage.LookupFreeQuantizer": "taming.first_stage.LFQ",
    "taming.first_stage.LinearQuantizer": "taming.first_stage.SimVQ",
}


def check(node: Any, place: str, allow: Iterable[str] = ()) -> None:
    """Walks a tree of target/params and checks each against the signature of its constructor,
    without building anything.
    """
    if isinstance(node, list):
        for i, item in enumerate(node):
            check(item, f"{place}[{i}]", allow)
    if not isinstance(node, dict):
        return
    if "target" not in node:
        for key, value in node.items():
            check(value, f"{place}.{key}", allow)
        return
    for key in node:
        if key not in ("target", "params"):
            raise UserError(
                f"{place}.{key}: unknown key beside target{did_you_mean(key, ['target', 'params'])}"
            )
    params = node.get("params") or {}
    _check_signature(resolve(node["target"], place, allow), params, place)
    for key, value in params.items():
        check(value, f"{place}.params.{key}", allow)


def build(node: Any, allow: Iterable[str] = (), place: str = "model", **extra) -> Any:
    """The object that a target/params tree describes; inner trees are built first. `extra`: further
    keywords for the outermost constructor.
    """
    if isinstance(node, list):
        return [build(item, allow, f"{place}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "target" not in node:
        return {key: build(value, allow, f"{place}.{key}") for key, value in node.items()}
    params = {
        key: build(value, allow, f"{place}.params.{key}")
        for key, value in (node.get("params") or {}).items()
    }
    made = resolve(node["target"], place, allow)
    try:
        return made(**params, **extra)
    except (ValueError, TypeError) as error:
        raise UserError(f"{place}: {node['target']}: {first_line(error)}") from error


def resolve(target: Any, place: str, allow: Iterable[str] = ()) -> Any:
    """The class or function that `target` names: a name exported by one of the allowed packages."""
    packages = (*PACKAGES, *allow)
    if not isinstance(target, str) or "." not in target:
        raise UserError(
            f"{place}.target: {target!r} is not a dotted name such as taming.first_stage.VQGAN"
        )
    if target.split(".")[0] not in packages:
        raise UserError(
            f"{place}.target: '{target}' lies outside {', '.join(packages)}; admit a package of"
            f" your own with `allow: [{target.split('.')[0]}]`"
        )
    module_name, name = ALIASES.get(target, target).rsplit(".", 1)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{place}.target: '{target}': no module '{error.name}'") from None
    exported = getattr(module, "__all__", None) or [
        n for n in vars(module) if not n.startswith("_")
    ]
    if name not in exported or not callable(getattr(module, name, None)):
        raise UserError(
            f"{place}.target: '{module_name}' has no '{name}'{did_you_mean(name, exported)}"
        )
    return getattr(module, name)


def _check_signature(made: Any, params: dict, place: str) -> None:
    try:
        accepted = inspect.signature(made).parameters
    except ValueError:  # some classes written in C do not tell
        return
    hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    for key, value in params.items():
        if key not in accepted and not anything:
            raise UserError(f"{place}.params.{key}: unknown key{did_you_mean(key, accepted)}")
        if key in hints and not _fits(value, hints[key]):
            wanted = getattr(hints[key], "__name__", str(hints[key]))
            raise UserError(
                f"{place}.params.{key}: {value!r} is a {type(value).__name__}, but {wanted} is"
                " wanted"
            )
    for key, parameter in accepted.items():
        if (
            parameter.default is parameter.empty
            and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and key not in params
        ):
            raise UserError(
                f"{place}.params.{key}: missing, and {getattr(made, '__name__', made)} has no"
                " default for it"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Scalars and sequences of them are checked; a tree with a target becomes an object later, so
    it fits anything.
    """
    if isinstance(value, dict) or hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if value is None:
        return False
    if origin in (list, tuple, Sequence) or hint in (list, tuple, Sequence):
        inner = [a for a in typing.get_args(hint) if a is not Ellipsis]
        return isinstance(value, list | tuple) and (
            not inner or all(_fits(v, inner[0]) for v in value)
        )
    if (
        isinstance(value, str | int | float | bool | list)
        and inspect.isclass(hint)
        and not issubclass(hint, str | Path)
    ):
        return False
    return True
