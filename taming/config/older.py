"""Configurations of earlier versions, in checkpoints and in people's YAML -> today's schema."""

from collections.abc import Callable
from typing import Any

Upgrade = Callable[[dict], dict]

UPGRADES: list[Upgrade] = []
"""One function for each change of the schema, in the order of the changes. Each is given a whole
plain configuration, or a part of one, and returns it in the new form without writing into it; what
is in the new form already it returns as it is."""


def upgrade(plain: dict) -> dict:
    """`plain` in today's schema."""
    for change in UPGRADES:
        plain = change(plain)
    return plain


def in_targets(node: Any, change: Callable[[str, dict], dict]) -> Any:
    """The same tree, `change(target, params)` in place of the params of each node with a target."""
    if isinstance(node, list):
        return [in_targets(item, change) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: in_targets(value, change) for key, value in node.items()}
    if isinstance(node.get("target"), str) and isinstance(node.get("params"), dict):
        node["params"] = change(node["target"], node["params"])
    return node


_PICTURES = ("ImageFolder", "ClassFolders", "SegmentedImages", "DepthImages")


def nest_view(plain: dict) -> dict:
    """Data sets of files: size, scale, flip and upscale -> view. A flat key wins over the nested
    one, so that command lines of earlier versions hold.
    """

    def change(target: str, params: dict) -> dict:
        if not target.startswith("taming.data.") or target.rsplit(".", 1)[1] not in _PICTURES:
            return params
        flat = {key: params[key] for key in ("size", "scale", "flip", "upscale") if key in params}
        if not flat:
            return params
        view = params.get("view", {})
        nested = view if isinstance(view, dict) else {"size": view}
        rest = {key: value for key, value in params.items() if key not in flat}
        return {**rest, "view": {**nested, **flat}}

    return in_targets(plain, change)


UPGRADES.append(nest_view)


def nest_discriminator(plain: dict) -> dict:
    """VQGANLoss: width, layers, normalization and in_channels -> discriminator. A flat key wins
    over the nested one, so that command lines of earlier versions hold.
    """

    def change(target: str, params: dict) -> dict:
        names = ("width", "layers", "normalization", "in_channels")
        flat = {key: params[key] for key in names if key in params}
        if target != "taming.first_stage.VQGANLoss" or not flat:
            return params
        node = params.get("discriminator") or {"target": "taming.first_stage.PatchDiscriminator"}
        inside = (node.get("params") or {}) if isinstance(node, dict) else None
        if not isinstance(inside, dict):
            return params
        nested = {**node, "params": {**inside, **flat}}
        rest = {key: value for key, value in params.items() if key not in flat}
        return {**rest, "discriminator": nested}

    return in_targets(plain, change)


UPGRADES.append(nest_discriminator)


def name_shared_table(plain: dict) -> dict:
    """A GPT with a shared vocabulary, and what only published models have beside it -> the class
    for published models.
    """
    only_published = ("shared_vocabulary", "positions", "unmasked", "attention_dropout")

    def renamed(node: Any) -> Any:
        if isinstance(node, list):
            return [renamed(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {key: renamed(value) for key, value in node.items()}
        params = node.get("params")
        if node.get("target") != "taming.second_stage.GPT" or not isinstance(params, dict):
            return node
        if params.get("shared_vocabulary") is not None:
            return {**node, "target": "taming.formats.compvis.CompVisGPT"}
        rest = {k: v for k, v in params.items() if v or k not in only_published}
        return {**node, "params": rest}

    return renamed(plain)


UPGRADES.append(name_shared_table)


def drop_strategy(plain: dict) -> dict:
    """trainer.strategy follows from the model and trainer.devices; what these give may be named."""
    trainer = plain.get("trainer")
    derived = ("auto", "ddp", "ddp_find_unused_parameters_true")
    if not isinstance(trainer, dict) or trainer.get("strategy") not in derived:
        return plain
    rest = {key: value for key, value in trainer.items() if key != "strategy"}
    return {**plain, "trainer": rest}


UPGRADES.append(drop_strategy)
