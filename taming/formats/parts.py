"""The first stages in the file of a second stage, which carries them whole."""

import dataclasses

from taming.config.experiment import Experiment
from taming.errors import UserError
from taming.formats.content import Content

TOKENIZERS = ("first_stage", "conditioner.first_stage")
"""Of pictures and of masks, in a second stage."""


def part_for(experiment: Experiment, content: Content) -> Content:
    """The content, or the first stage in it where the configuration is of a first stage: that of
    the pictures, or of the masks where the classes say so.
    """
    target = experiment.model.get("target", "")
    if content.stage != "second" or not target.startswith("taming.first_stage."):
        return content
    content = base_content(content)
    parts = [part for part in TOKENIZERS if tokenizer_node(content, part) is not None]
    same = [p for p in parts if (tokenizer_node(content, p) or {}).get("target") == target]
    if not parts:
        raise UserError(f"'{content.path}' holds no first stage")
    return first_stage_content(content, (same or parts)[0])


def base_content(content: Content) -> Content:
    """Of a cascade the prior of its small scenes; anything else as it is."""
    base = (content.config["model"].get("params") or {}).get("base")
    if not isinstance(base, dict):
        return content
    parts = ("first_stage", "conditioner", "priors", "coarser")
    weights = {n: t for n, t in content.weights.items() if n.split(".")[0] in parts}
    return dataclasses.replace(content, config={**content.config, "model": base}, weights=weights)


def tokenizer_node(content: Content, part: str) -> dict | None:
    """The configuration of a tokenizer in a second stage; None where there is none."""
    node = content.config["model"].get("params") or {}
    if part.startswith("conditioner"):
        node = (node.get("conditioner") or {}).get("params") or {}
    node = node.get("first_stage")
    return node if isinstance(node, dict) else None


def first_stage_content(content: Content, part: str = "first_stage") -> Content:
    """One of the tokenizers in a second stage, as a first stage. Raises UserError where there is
    none.
    """
    content = base_content(content)
    node = tokenizer_node(content, part)
    if node is None:
        raise UserError(f"'{content.path}' has no {part}")
    prefix = f"{part}."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in content.weights.items()
        if name.startswith(prefix)
    }
    config = {**content.config, "model": node, "loss": None}
    return dataclasses.replace(content, stage="first", config=config, weights=weights)
