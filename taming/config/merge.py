"""YAML files, plain trees and `key=value` words, merged from left to right into one plain tree."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from taming.config.build import declared
from taming.config.hints import fits, shortened
from taming.config.names import resolve
from taming.config.older import upgrade
from taming.config.shipped import find_config
from taming.errors import UserError, did_you_mean

Source = str | Path | dict


def plain_yaml(
    paths: Iterable[Source], overrides: Iterable[str] = (), notes: list[str] | None = None
) -> dict:
    """YAML files (or trees) merged from left to right, then `key=value` overrides, as plain
    containers; nothing is checked, filled in or interpolated.

    Args:
        notes: gets a line for each part that was switched and lost parameters.
    """
    tree, allow = {}, []
    for path in paths:
        top = read_yaml(path)
        allow += _names(top.get("allow"))
        tree = merge(tree, top, notes, allow)
    return merge(tree, overriding(overrides), notes, allow)


def merge(
    base: Any, top: Any, notes: list[str] | None = None, allow: Iterable[str] = (), place: str = ""
) -> Any:
    """`top` over `base`, mappings key by key. Where a node gets another target, the parameters that
    both classes know stay (the seed of a data set too), the others are dropped, and `notes` says
    so.
    """
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    if "target" in top and "target" in base and top["target"] != base["target"]:
        base, note = _switched(base, top, place, allow)
        if note and notes is not None:
            notes.append(note)
    result = dict(base)
    for key, value in top.items():
        inner = f"{place}.{key}".lstrip(".")
        result[key] = merge(base[key], value, notes, allow, inner) if key in base else value
    return result


def _names(allow: Any) -> list[str]:
    return [name for name in allow if isinstance(name, str)] if isinstance(allow, list) else []


def _switched(node: dict, top: dict, place: str, allow: Iterable[str]) -> tuple[dict, str]:
    """The node without the parameters that the class `top` names does not know, and a line that
    names them.
    """
    params, target, stated = node.get("params"), top["target"], top.get("params") or {}
    if not isinstance(params, dict) or not isinstance(stated, dict):
        return node, ""
    try:
        old, new = (resolve(name, place, allow) for name in (node["target"], target))
    except UserError:  # said where the whole tree is checked
        return node, ""
    dropped = [
        key
        for key, value in params.items()
        if key not in stated and not _carries_over(key, value, old, new, target, stated)
    ]
    note = f"{place}: {new.__name__} does not take over {', '.join(dropped)} of {old.__name__}"
    rest = {key: value for key, value in params.items() if key not in dropped}
    return {**node, "params": rest}, note if dropped else ""


def _carries_over(
    key: str, value: Any, old: Any, new: Any, target: str, stated: Iterable[str]
) -> bool:
    """Whether `key=value`, stated for the class `old`, means something to the class `new`, for
    which `stated` are given.
    """
    today = upgrade({"model": {"target": target, "params": {key: value}}})["model"]["params"]
    parameters, hints = declared(new)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return True
    if not today.keys() <= parameters.keys():
        return False
    if key not in parameters:  # in today's names part of something else, as a flat `size` is
        return not today.keys() & set(stated)
    before = declared(old)[0].get(key)
    if before and before.default is before.empty and parameters[key].default is None:
        return False  # the old class has to be given what the new one works out by itself
    # The same word may mean another thing, as `restart` does: batches here, a share there
    plain = not isinstance(value, dict | list | str)
    return fits(value, hints.get(key, Any)) if plain else True


def overriding(overrides: Iterable[str]) -> dict:
    """`key=value` words as a tree."""
    changes: dict = {}
    for override in overrides:
        if "=" not in override:
            raise UserError(
                f"'{shortened(override, 80)}' is neither a flag nor key=value; write for example"
                " optimizer.learning_rate=1e-3"
            )
        try:
            tree = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, YAMLError, RecursionError):
            raise UserError(
                f"'{shortened(override, 80)}': the value is not valid YAML; quote it, or close its"
                " brackets"
            ) from None
        changes = merge(changes, tree)
    return changes


def read_yaml(path: Source) -> dict:
    """The tree of a file, of a shipped configuration's name, or a plain one as it is."""
    if isinstance(path, dict):
        return path
    path = find_config(path)
    try:
        content = OmegaConf.load(path)
        tree = OmegaConf.to_container(content)
    except Exception as error:  # PyYAML raises many kinds
        raise UserError(
            f"config '{path}' is not valid YAML: {shortened(str(error), 300)}"
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"config '{path}' should be a mapping of keys, not a {type(tree).__name__}")
    return tree


def check_variables(tree: dict, changes: dict, source: str) -> None:
    """Refuses an override of a variable that no file has."""
    variables = tree.get("variables") or {}
    for name in changes.get("variables") or {}:
        if name not in variables:
            raise UserError(
                f"variables.{name}: {source} has no such"
                f" variable{did_you_mean(name, variables or [])}"
            )


def interpolated(tree: dict, source: str) -> dict:
    """The tree with every ${...} filled in."""
    try:
        return cast(dict, OmegaConf.to_container(OmegaConf.create(tree), resolve=True))
    except (OmegaConfBaseException, YAMLError, RecursionError) as error:
        raise UserError(f"{source}: {shortened(str(error), 300)}") from None


def refuse_interpolation(tree: Any, source: str) -> None:
    """A file of a run is filled in; ${...} in it would read the reader's environment."""
    if isinstance(tree, str) and "${" in tree:
        raise UserError(f"{source}: '{shortened(tree, 80)}' should be filled in; write the value")
    for inner in (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    ):
        refuse_interpolation(inner, source)


def source_name(paths: Iterable[Source]) -> str:
    """For messages: the files' paths."""
    return (
        " + ".join("configuration" if isinstance(p, dict) else str(p) for p in paths)
        or "configuration"
    )
