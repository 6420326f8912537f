"""Published checkpoints with their YAML -> Content, and back."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from taming.config import from_plain, to_plain
from taming.errors import UserError
from taming.files import make_writable, write_atomically
from taming.formats.compvis.config import configs_beside, read_yaml, translate
from taming.formats.compvis.export import to_published
from taming.formats.compvis.weights import rename_weights
from taming.formats.content import Content, check_tensors, is_index
from taming.weights import is_tensors

UNUSED_STATE = ("optimizer_states", "lr_schedulers", "callbacks")


def read_published(
    path: Path, raw: dict, config: str | Path | None = None, allow: Iterable[str] = ()
) -> Content:
    """A published checkpoint as ours.

    Args:
        path: the file.
        raw: what it holds.
        config: its YAML; by default the one beside it.
        allow: see Content.

    Raises:
        UserError: it holds no tensors, there is no YAML, or the two do not fit.
    """
    state = raw.get("state_dict", raw)
    if not is_tensors(state):
        raise UserError(
            f"'{path}' was written neither by taming nor by the published code: it holds no"
            " dictionary of tensors"
        )
    check_tensors(state, path)
    yamls = [Path(config)] if config else configs_beside(path)
    if not yamls:
        raise UserError(
            f"'{path}' was not written by taming, and no YAML lies beside it; give the one that"
            " came with it by --config"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    translated = translate(read_yaml(yamls), shapes)
    second = "first_stage" in translated.config["model"]["params"]
    renamed = rename_weights(state, path, second, translated.config)
    unused = {name: "not needed for weights" for name in UNUSED_STATE if name in raw}
    batches = raw.get("global_step")
    return Content(
        stage="second" if second else "first",
        config=to_plain(from_plain(translated.plain, str(yamls[-1]))),
        weights=renamed.weights,
        batches=batches if is_index(batches) else 0,
        figures={},
        loss=renamed.loss,
        unused=renamed.unused | unused,
        notes=translated.notes,
        unknown=renamed.unknown,
        source="published",
        path=str(path),
        allow=tuple(allow),
    )


def save_published(folder: str | Path, content: Content) -> Path:
    """Writes checkpoints/last.ckpt and configs/model-project.yaml, as the published code reads
    them; returns the folder.

    Raises:
        UserError: the published code can't express the model, there is a checkpoint in the folder,
            or it can't be written.
    """
    tree, raw = to_published(content.config, content.weights, content.loss, content.batches)
    folder = Path(folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    for path in (checkpoint, folder / "config.yaml", *folder.glob("configs/*project.yaml")):
        if path.is_file():
            raise UserError(f"'{path}' is there already; export into a new folder")
    for place in ("checkpoints", "configs"):
        make_writable(folder / place)
    if tree["model"]["params"].get("remap"):
        used, codes = folder / "configs" / "used.npy", content.weights["quantizer.used"].numpy()
        write_atomically(used, lambda path: _save_array(path, codes))
        tree["model"]["params"]["remap"] = str(used)
    # The YAML last: what it stands beside is complete
    write_atomically(checkpoint, lambda path: torch.save(raw, path))
    write_atomically(
        folder / "configs" / "model-project.yaml",
        lambda path: OmegaConf.save(OmegaConf.create(tree), path),
    )
    return folder


def convert_yaml(path: str | Path, out: str | Path) -> Path:
    """Writes a published configuration as one of ours, what is worth knowing about the translation
    on top; returns the path.
    """
    path, out = Path(path), Path(out)
    translated = translate(read_yaml([path]))
    from_plain(translated.plain, str(path))
    lines = [
        f"# Translated from {path.name}, a configuration of the published code.",
        *(f"# {note}" for note in translated.notes),
        OmegaConf.to_yaml(OmegaConf.create(translated.config)),
    ]
    write_atomically(out, lambda file: file.write_text("\n".join(lines), encoding="utf-8"))
    return out


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:  # numpy adds an ending to a path
        np.save(file, array)
