"""Configurations of earlier versions, in checkpoints and in people's YAML -> today's schema."""

from collections.abc import Callable

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


def in_targets(node, change: Callable[[str, dict], dict]):
    """The same tree, `change(target, params)` in place of the params of each node with a target."""
    if isinstance(node, list):
        return [in_targets(item, change) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: in_targets(value, change) for key, value in node.items()}
    if isinstance(node.get("target"), str) and isinstance(node.get("params"), dict):
        node["params"] = change(node["target"], node["params"])
    return node
