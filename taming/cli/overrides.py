"""Configurations and overrides of the published code -> ours."""

import argparse
import sys
from pathlib import Path

from taming.errors import UserError


def translated(
    bases: list, overrides: list[str], given: argparse.Namespace
) -> tuple[list, list[str], str | None]:
    """Configurations of the published code become one of ours; overrides of their model, data and
    lightning sections are theirs, all others ours. Also what to start from: --from, or the
    checkpoint that they name.
    """
    from taming import config
    from taming.formats.compvis.config import is_theirs, resolved, translate

    paths = [Path(base) for base in bases]
    if not all(path.is_file() for path in paths):
        return bases, overrides, given.start_from  # config.load says which is missing
    tree = config.plain_yaml(paths)
    if not is_theirs(tree):
        return bases, overrides, given.start_from
    names = {
        "data.batch_size": "data.params.batch_size",
        "trainer.accumulate_grad_batches": "lightning.trainer.accumulate_grad_batches",
    }
    # The rate depends on them
    overrides = [
        f"{names.get(o.split('=')[0], o.split('=')[0])}={o.split('=', 1)[1]}" if "=" in o else o
        for o in overrides
    ]
    theirs = [o for o in overrides if o.startswith(("model.", "lightning.", "data.params."))]
    devices = next(
        (int(o.split("=")[1]) for o in overrides if o.startswith("trainer.devices=")), None
    )
    translation = translate(resolved(config.plain_yaml([tree], theirs)), devices=devices)
    for note in translation.notes:
        print(f"published configuration: {note}", file=sys.stderr)
    start_from = given.start_from
    if not start_from:
        start_from = translation.checkpoints.pop("model", None)
        if start_from and not Path(start_from).exists():
            raise UserError(
                f"model.params.ckpt_path: '{start_from}' does not exist; correct it, give --from,"
                " or start anew with model.params.ckpt_path=null"
            )
        for part, path in translation.checkpoints.items():
            if not Path(path).exists():
                raise UserError(
                    f"{part}: its ckpt_path '{path}' does not exist; correct it, or give a whole"
                    " model by --from"
                )
            node = {"target": "taming.first_stage.pretrained", "params": {"checkpoint": path}}
            where = translation.config["model"]["params"]
            if part == "conditioner":
                where["conditioner"]["params"]["first_stage"] = node
            else:
                where[part] = node
        if (
            "prior" in translation.config["model"]["params"]
            and not translation.checkpoints
            and not start_from
        ):
            raise UserError(
                "first_stage_config names no ckpt_path, so the codes would come from an untrained"
                " model; add one, or give a whole model by --from"
            )
    for part in ("train", "validation"):
        if any(o.startswith(f"data.{part}=") for o in overrides):
            # A whole data set is given, not keys of the translated one
            translation.config["data"].pop(part, None)
    return [translation.config], [o for o in overrides if o not in theirs], start_from
