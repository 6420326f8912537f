"""Published checkpoints with their YAML -> Content, and back."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from taming.config import from_plain, to_plain
from taming.errors import UserError
from taming.files import make_writable, write_atomically
from taming.formats.compvis.config import configs_beside, read_yaml, translate
from taming.formats.compvis.export import to_published
from taming.formats.compvis.names import DIFFUSIONS
from taming.formats.compvis.weights import rename_weights
from taming.formats.content import Content, is_index
from taming.formats.source import Source

NAME = "CompVis's code"
UNUSED_STATE = ("optimizer_states", "lr_schedulers", "callbacks")
FIRST_STAGE = "first_stage_model."  # of a diffusion model


def read_published(source: Source, allow: Iterable[str] = ()) -> Content:
    """A published checkpoint as ours, with the YAML that the caller names or that lies beside it.

    Args:
        source: the file, and what is in it.
        allow: see Content.

    Raises:
        UserError: it holds no tensors, there is no YAML, or the two do not fit.
    """
    # 1. the tensors and the YAML
    path, state = source.path, source.weights
    if not state:
        raise UserError(
            f"'{path}' was written neither by taming nor by the published code: it holds no"
            " dictionary of tensors"
        )
    yamls = [source.config] if source.config else configs_beside(path)
    if not yamls:
        raise UserError(
            f"'{path}' was not written by taming, and no YAML lies beside it; give the one that"
            " came with it by --config"
        )
    # 2. both translated
    tree = read_yaml(yamls)
    if tree["model"].get("target") in DIFFUSIONS:
        tree, state = _first_stage_of_diffusion(tree, state, source)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    translated = translate(tree, shapes)
    second = "first_stage" in translated.config["model"]["params"]
    _compare_attention(translated.config["model"], shapes, source, str(yamls[-1]))
    # 3. tensors by our names, the rest said
    renamed = rename_weights(state, path, second, translated.config)
    unused = {name: "not needed for weights" for name in UNUSED_STATE if name in source.raw}
    batches = source.raw.get("global_step")
    return Content(
        stage="second" if second else "first",
        config=to_plain(from_plain(translated.plain, str(yamls[-1]))),
        weights=renamed.weights,
        batches=batches if is_index(batches) else 0,
        figures={},
        loss=renamed.loss,
        unused=source.unused | renamed.unused | unused,
        notes=source.notes + translated.notes,
        unknown=renamed.unknown,
        source=NAME,
        configs=tuple(map(str, yamls)),
        path=str(path),
        allow=tuple(allow),
    )


def _first_stage_of_diffusion(
    tree: dict, state: dict[str, Tensor], source: Source
) -> tuple[dict, dict[str, Tensor]]:
    """The part of a diffusion model that is of this family: its YAML and its tensors."""
    node = (tree["model"].get("params") or {}).get("first_stage_config")
    if not isinstance(node, dict):
        raise UserError(f"'{source.path}': its YAML names no first_stage_config")
    first = {
        name.removeprefix(FIRST_STAGE): tensor
        for name, tensor in state.items()
        if name.startswith(FIRST_STAGE)
    }
    if not first:
        raise UserError(
            f"'{source.path}' has no tensors under '{FIRST_STAGE}'; its first stage is a file of"
            " its own: give that one, with its YAML"
        )
    for name in state:
        if not name.startswith(FIRST_STAGE):
            source.unused[name.split(".")[0]] = (
                "of the diffusion model, which is not of this family"
            )
    return {**tree, "model": node}, first


def _compare_attention(node: dict, shapes: dict, source: Source, yaml: str) -> None:
    """Raises UserError where the YAML has attention at other scales than the weights, the most
    common mistake in YAMLs that are written after others.
    """
    params = node["params"]
    prefix = FIRST_STAGE if "first_stage" in params else ""
    params = params["first_stage"]["params"] if prefix else params
    pattern = re.compile(re.escape(prefix) + r"encoder\.down\.(\d+)\.attn\.0\.norm\.weight")
    there = sorted(int(match[1]) for name in shapes if (match := pattern.fullmatch(name)))
    if there != sorted(params.get("attention", [])) and f"{prefix}encoder.conv_in.weight" in shapes:
        raise UserError(
            f"'{source.path}' has attention at scales {there} (0 is the finest), but '{yaml}' says"
            f" {sorted(params.get('attention', []))}; correct its attn_resolutions: scale i is"
            " resolution / 2^i"
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
