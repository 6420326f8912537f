"""The command line's configurations and overrides, where they are of the published code -> ours."""

from dataclasses import dataclass, field
from pathlib import Path

from taming.config import plain_yaml
from taming.errors import UserError
from taming.formats.compvis.config import Translation, is_published, resolved, translate

THEIR_NAMES = {  # keys of ours that their learning rate depends on
    "data.batch_size": "data.params.batch_size",
    "trainer.accumulate_grad_batches": "lightning.trainer.accumulate_grad_batches",
}
THEIR_SECTIONS = ("model.", "lightning.", "data.params.")


@dataclass
class Start:
    """What a training is configured by and starts from.

    Args:
        bases: paths of YAML files, or plain configurations of ours.
        overrides: key=value for them.
        checkpoint: whose weights are taken before batch 0.
        notes: on the translation.
    """

    bases: list
    overrides: list[str]
    checkpoint: str | None = None
    notes: list[str] = field(default_factory=list)


def translated_start(bases: list, overrides: list[str], checkpoint: str | None = None) -> Start:
    """Published configurations become one of ours; overrides of their model, data and lightning
    sections are theirs, all others ours. Anything else is returned as it is.

    Args:
        bases: paths of YAML files.
        overrides: key=value.
        checkpoint: what to start from; by default what the published configuration names.

    Raises:
        UserError: the configuration can't be translated, or a checkpoint that it names is missing.
    """
    paths = [Path(base) for base in bases]
    if not all(path.is_file() for path in paths):
        return Start(bases, overrides, checkpoint)  # config.load says which is missing
    tree = plain_yaml(paths)
    if not is_published(tree):
        return Start(bases, overrides, checkpoint)
    overrides = [_renamed(override) for override in overrides]
    published = [override for override in overrides if override.startswith(THEIR_SECTIONS)]
    ours = [override for override in overrides if override not in published]
    translation = translate(resolved(plain_yaml([tree], published)), devices=_devices(ours))
    if not checkpoint:
        checkpoint = _fill(translation)
    for part in ("train", "validation"):
        if any(override.startswith(f"data.{part}=") for override in ours):
            # A whole data set is given, not keys of the translated one
            translation.config["data"].pop(part, None)
    return Start([translation.config], ours, checkpoint, translation.notes)


def _renamed(override: str) -> str:
    key, equals, value = override.partition("=")
    return f"{THEIR_NAMES.get(key, key)}{equals}{value}"


def _devices(overrides: list[str]) -> int | None:
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "trainer.devices":
            if not value.isdecimal():
                raise UserError(f"trainer.devices={value} should be a number")
            return int(value)
    return None


def _fill(translation: Translation) -> str | None:
    """The checkpoint of the model that the configuration names; those of its parts become
    `pretrained` first stages.
    """
    checkpoints = dict(translation.checkpoints)
    whole = checkpoints.pop("model", None)
    if whole and not Path(whole).exists():
        raise UserError(
            f"model.params.ckpt_path: '{whole}' does not exist; correct it, give --from, or start"
            " anew with model.params.ckpt_path=null"
        )
    params = translation.config["model"]["params"]
    for part, path in checkpoints.items():
        if not Path(path).exists():
            raise UserError(
                f"{part}: its ckpt_path '{path}' does not exist; correct it, or give a whole model"
                " by --from"
            )
        node = {"target": "taming.first_stage.pretrained", "params": {"checkpoint": path}}
        if part == "conditioner":
            params["conditioner"]["params"]["first_stage"] = node
        else:
            params[part] = node
    if "prior" in params and not checkpoints and not whole:
        raise UserError(
            "first_stage_config names no ckpt_path, so the codes would come from an untrained"
            " model; add one, or give a whole model by --from"
        )
    return whole
