"""A first stage from a checkpoint, as a target in a configuration."""

from pathlib import Path

import torch

from taming import config as configs
from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.formats.load import load, read_checkpoint


def pretrained(checkpoint: str, config: str | None = None, yaml: str | None = None) -> FirstStage:
    """The first stage in `checkpoint`. `config` names the file it is trained by: for the message
    where the checkpoint is missing, and to build the model without weights on the meta device.
    yaml: what came with a published checkpoint, if it does not lie beside it.
    """
    if torch.get_default_device().type == "meta" and config:
        experiment = configs.load(config)
        return configs.build(experiment.model, experiment.allow)
    if config and not Path(checkpoint).exists():
        raise UserError(
            f"first stage '{checkpoint}' does not exist; train it first: taming train -b {config}"
        )
    return load(checkpoint, yaml, stage="first")


def inlined(node):
    """The same configuration tree with every `pretrained` replaced by the model's own tree, so that
    it needs no other file.
    """
    if isinstance(node, list):
        return [inlined(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("target") == "taming.first_stage.pretrained":
        return read_checkpoint(node["params"]["checkpoint"], node["params"].get("yaml")).config[
            "model"
        ]
    return {key: inlined(value) for key, value in node.items()}
