"""Folders of pictures, encoded and decoded."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from taming import images
from taming.data.folder import find_pictures
from taming.errors import UserError
from taming.files import check_output, make_writable
from taming.first_stage.interface import Autoencoder, pad_to_multiple
from taming.formats.load import find_checkpoint
from taming.inference.conditions import named
from taming.inference.models import first_stage_of, read_input


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
    # 2. each picture
    model = first_stage_of(checkpoint, config, allow)
    make_writable(out)
    scores = [_reconstruct(model, path, out / f"{name}.png") for name, path in pictures]
    # 3. how near they came
    unit = "dB PSNR" if model.key != "segmentation" else "of the labels right"
    mean, count = sum(scores) / len(scores), len(scores)
    return f"{count} picture{'s' * (count > 1)} in '{out}': {mean:.4g} {unit} on average"


@torch.no_grad()
def _reconstruct(model: Autoencoder, picture: Path, path: Path) -> float:
    """Any size: padded to a multiple of the stride, and cropped back."""
    original = read_input(model, picture)
    height, width = original.shape[-2:]
    decoded = model.reconstruct(pad_to_multiple(original, model.multiple))[..., :height, :width]
    if model.key == "segmentation":
        labels = decoded.argmax(dim=1)
        images.save(Image.fromarray(labels[0].byte().numpy()), path)
        return float((labels == original).float().mean())
    images.save(decoded[0], path)
    return float(images.psnr(decoded.clamp(-1, 1), original))
