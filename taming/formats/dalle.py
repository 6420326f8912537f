"""DALL-E's dVAE (Ramesh et al. 2021, arXiv 2102.12092): encoder.pkl and decoder.pkl, two pickled
networks, of which the tensors are read and nothing is run.
"""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from taming.errors import UserError
from taming.formats.content import Content, check_tensors
from taming.formats.source import Source, tokenizer_content
from taming.formats.unpickler import read_modules

NAME = "DALL-E"
FILES = ("encoder.pkl", "decoder.pkl")
MARK = b"dall_e"  # the package of their classes
PACKAGES = ("dall_e", "torch.nn.modules")
SCALES = 4
SIZE = 256  # of the images that it was trained on


def recognises_file(path: Path) -> bool:
    """Whether a pickle names a class of theirs; looked for in its first bytes, not by loading."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
                return name is not None and MARK in archive.open(name).read(1 << 20)
        with open(path, "rb") as file:
            return MARK in file.read(1 << 16)
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return False


def parts(path: Path) -> list[Path]:
    """Both files, whichever is named.

    Raises:
        UserError: one of them is missing.
    """
    files = [path.parent / name for name in FILES]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"'{path}' is half of DALL-E's dVAE, and '{file}' is missing: download it into the"
                f" same folder, under the name {file.name}"
            )
    return files


def read_dalle(path: Path, allow: Iterable[str] = ()) -> Content:
    """The dVAE as ours. Nothing but its tensors is needed.

    Raises:
        UserError: a file is missing, is something else, or lacks a tensor that tells the sizes.
    """
    weights: dict[str, Tensor] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    unknown = []
    for file, side in zip(parts(path), ("encoder", "decoder")):
        state = read_modules(file, PACKAGES)
        check_tensors(state, file)
        sizes |= {f"{side}.{name}": tuple(tensor.shape) for name, tensor in state.items()}
        for name, tensor in state.items():
            ours = _our_name(name, side)
            if ours is None:
                unknown.append(f"{side}.{name}")
            else:
                weights[ours] = tensor
        if side == "decoder":
            weights["quantizer.embedding.weight"] = _codebook(state, file)
    params = _params(sizes, str(path))
    model = {"target": "taming.first_stage.DVAE", "params": params}
    source = Source(path, {})
    return tokenizer_content(source, NAME, model, weights, unknown, size=SIZE, allow=allow)


def _codebook(state: dict[str, Tensor], file: Path) -> Tensor:
    """The first layer of the decoder reads one-hot codes: its columns, with the bias, are the
    vectors of the codes.
    """
    weight, bias = state.get("blocks.input.w"), state.get("blocks.input.b")
    if weight is None or bias is None or weight.ndim != 4 or weight.shape[2:] != (1, 1):
        raise UserError(f"'{file}' is no decoder of DALL-E's dVAE: it has no blocks.input.w")
    if bias.shape != weight.shape[:1]:
        raise UserError(f"'{file}': blocks.input.b {tuple(bias.shape)} does not fit blocks.input.w")
    return weight[:, :, 0, 0].T + bias


def _params(sizes: dict[str, tuple[int, ...]], path: str) -> dict:
    try:
        width, channels = sizes["encoder.blocks.input.w"][:2]
        num_codes, dim = sizes["encoder.blocks.output.conv.w"][:2]
        code_dim = sizes["decoder.blocks.input.w"][0]
    except (KeyError, ValueError):
        raise UserError(
            f"'{path}': encoder.pkl and decoder.pkl are not those of DALL-E's dVAE; download both"
            " again"
        ) from None
    numbers = [re.match(r"encoder\.blocks\.group_1\.block_(\d+)\.", name) for name in sizes]
    quantizer = {"num_codes": num_codes, "dim": dim, "code_dim": code_dim, "hard": False}
    return {
        "width": width,
        "in_channels": channels,
        "blocks": max((int(match[1]) for match in numbers if match), default=1),
        "inset": True,
        "quantizer": {"target": "taming.first_stage.GumbelQuantizer", "params": quantizer},
        "likelihood": {"target": "taming.first_stage.LogitLaplaceLikelihood"},
    }


def _our_name(name: str, side: str) -> str | None:
    """A published tensor by our name; None for what no published dVAE has."""
    stem, _, leaf = name.rpartition(".")
    leaf = {"w": "weight", "b": "bias"}.get(leaf, "")
    if not leaf:
        return None
    if stem == "blocks.input":
        return f"encoder.0.{leaf}" if side == "encoder" else "quantizer.embedding.weight"
    if stem == "blocks.output.conv":
        return f"quantizer.proj.{leaf}" if side == "encoder" else f"decoder.{SCALES}.{leaf}"
    match = re.fullmatch(r"blocks\.group_(\d)\.block_(\d+)\.(id_path|res_path\.conv_([1-4]))", stem)
    if not match:
        return None
    scale = int(match[1]) - (side == "decoder")
    layer = "shortcut" if match[3] == "id_path" else f"convs.{int(match[4]) - 1}"
    return f"{side}.{scale}.{int(match[2]) - 1}.{layer}.{leaf}"
