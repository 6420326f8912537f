"""Folders of pictures, encoded and decoded."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from taming import images
from taming.data.folder import find_pictures
from taming.errors import UserError
from taming.files import check_output, make_writable
from taming.first_stage import tiling
from taming.first_stage.interface import Autoencoder, Codes, FirstStage, pad_to_multiple
from taming.first_stage.resnet import Attention
from taming.first_stage.tiling import is_large
from taming.formats.load import find_checkpoint
from taming.inference.conditions import named
from taming.inference.memory import check_reconstruction
from taming.inference.models import batches_of, first_stage_of
from taming.inference.share import share_of_process
from taming.second_stage.window import TILE, decode_tiled

ATTENDED = 128  # codes a side of a tile within which a decoder attends


def reconstruct_folder(
    checkpoint: str | Path,
    folder: str | Path,
    out: str | Path = "reconstructions",
    config: str | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Writes OUT/NAME.png for each picture under a folder.

    Args:
        checkpoint: of either stage: whatever `taming.load` takes.
        folder: of pictures; for a mask tokenizer of label maps.
        out: a folder outside of `folder`.
        config: the YAML that came with a published checkpoint.
        allow: packages of one's own that the checkpoint may name.

    Returns:
        A line with the mean PSNR, or the share of right labels.
    """
    # 1. nothing that is read may be overwritten
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise UserError(f"picture folder '{folder}' does not exist")
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(
            f"-o {out} lies in the picture folder '{folder}', where results could overwrite"
            " pictures; choose another"
        )
    check_output(out, (find_checkpoint(checkpoint), folder))
    pictures = named(find_pictures(folder, folder), folder)
    # 2. the pictures, several of one size at a time
    model = first_stage_of(checkpoint, config, allow)
    make_writable(out)
    model = model.to(share_of_process().device)
    scores: list[float] = []
    for names, original in batches_of(model, pictures):
        scores += _reconstruct(model, original, [out / f"{name}.png" for name in names])
    # 3. how near they came
    unit = "dB PSNR" if model.key != "segmentation" else "of the labels right"
    mean, count = sum(scores) / len(scores), len(scores)
    return f"{count} picture{'s' * (count > 1)} in '{out}': {mean:.4g} {unit} on average"


def _reconstructed(model: Autoencoder, inputs: Tensor) -> Tensor:
    """In tiles where the picture is large; a VAE in one piece."""
    check_reconstruction(model, inputs)
    if isinstance(model, FirstStage) and is_large(model, inputs):
        return decode_large(model, model.encode(inputs))
    return model.reconstruct(inputs)


def decode_large(model: FirstStage, codes: Codes) -> Tensor:
    """The picture of codes, in tiles whose maps are no larger than those of encoding; one piece
    where that is enough. A decoder with attention, whose time grows as the square of a tile's
    codes, has smaller ones.
    """
    side = math.isqrt(tiling.LARGEST // tiling.map_bytes(model, 1, 1)) // model.stride
    if any(isinstance(part, Attention) for part in model.modules()):
        side = min(side, ATTENDED)
    return decode_tiled(model, codes, max(side, TILE))


@torch.no_grad()
def _reconstruct(model: Autoencoder, original: Tensor, paths: list[Path]) -> list[float]:
    """Any size: padded to a multiple of the stride, and cropped back."""
    height, width = original.shape[-2:]
    inputs = pad_to_multiple(original.to(model.last_layer.device), model.multiple)
    decoded = _reconstructed(model, inputs)[..., :height, :width].cpu()
    if model.key == "segmentation":
        labels = decoded.argmax(dim=1)
        for one, path in zip(labels, paths):
            images.save(Image.fromarray(one.byte().numpy()), path)
        return (labels == original).float().mean(dim=(1, 2)).tolist()
    for one, path in zip(decoded, paths):
        images.save(one, path)
    pairs = zip(decoded.clamp(-1, 1).split(1), original.split(1))
    return [float(images.psnr(*pair)) for pair in pairs]
