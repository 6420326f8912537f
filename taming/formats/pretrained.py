"""A model from a checkpoint, as a target in a configuration of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from taming import config as configs
from taming.config.names import ALIASES, PRETRAINED, PRETRAINED_PRIOR
from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.formats.building import filled_model
from taming.formats.load import load, read_checkpoint, shipped_names
from taming.formats.parts import first_stage_content
from taming.second_stage.model import SecondStage

FUNCTIONS = {PRETRAINED, PRETRAINED_PRIOR}
NAMES = {*FUNCTIONS, *(alias for alias, name in ALIASES.items() if name in FUNCTIONS)}


def pretrained(
    checkpoint: str,
    config: str | None = None,
    yaml: str | None = None,
    allow: Sequence[str] = (),
    part: Literal["pictures", "masks"] = "pictures",
) -> FirstStage:
    """The first stage in a checkpoint, be it of a second stage.

    Args:
        part: of a second stage, the tokenizer of the pictures or that of the masks.
        checkpoint: its path, that of its run folder, or a shipped model's name.
        config: the file that it is trained by: for the message where the checkpoint is missing, and
            to build the model without weights on the meta device.
        yaml: what came with a published checkpoint, if it does not lie beside it.
        allow: packages whose classes the checkpoint may name; `build` hands down its caller's.
    """
    model = _loaded(checkpoint, config, yaml, allow, "first", part)
    if not isinstance(model, FirstStage):
        raise UserError(f"'{checkpoint}' is a {type(model).__name__}, which has no codes")
    return model


def pretrained_prior(
    checkpoint: str, config: str | None = None, yaml: str | None = None, allow: Sequence[str] = ()
) -> SecondStage:
    """The second stage in a checkpoint, its tokenizers included. Arguments as of `pretrained`."""
    model = _loaded(checkpoint, config, yaml, allow, "second")
    if not isinstance(model, SecondStage):
        raise UserError(f"'{checkpoint}' is a {type(model).__name__}, which has no prior")
    return model


def _loaded(
    checkpoint: str,
    config: str | None,
    yaml: str | None,
    allow: Sequence[str],
    stage: str,
    part: str = "pictures",
) -> nn.Module:
    if torch.get_default_device().type == "meta" and config:
        experiment = configs.load(config)
        return configs.build(experiment.model, [*experiment.allow, *allow])
    if config and not Path(checkpoint).exists() and checkpoint not in shipped_names():
        raise UserError(
            f"{stage} stage '{checkpoint}' does not exist; train it first: taming train -b {config}"
        )
    if part == "masks":
        content = read_checkpoint(checkpoint, yaml, allow)
        return filled_model(first_stage_content(content, "conditioner.first_stage"))
    return load(checkpoint, yaml, stage=stage, allow=allow)


def inlined(node, allow: Sequence[str] = ()):
    """The same configuration tree with every `pretrained` replaced by the model's own tree, so that
    it needs no other file.
    """
    if isinstance(node, list):
        return [inlined(item, allow) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("target") in NAMES:
        params = node["params"]
        content = read_checkpoint(params["checkpoint"], params.get("yaml"), allow)
        if content.stage == "second" and ALIASES.get(node["target"], node["target"]) == PRETRAINED:
            masks = params.get("part") == "masks"
            part = "conditioner.first_stage" if masks else "first_stage"
            return first_stage_content(content, part).config["model"]
        return content.config["model"]
    return {key: inlined(value, allow) for key, value in node.items()}
