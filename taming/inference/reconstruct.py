"""Folders of pictures, encoded and decoded."""

from pathlib import Path

import torch
from PIL import Image

from taming import images
from taming.data.folder import found
from taming.data.transforms import mask_to_tensor, read_image, read_mask, to_tensor
from taming.errors import UserError
from taming.files import make_writable
from taming.first_stage.interface import Autoencoder, pad_to_multiple
from taming.formats.load import load
from taming.inference.conditions import named
from taming.second_stage.model import SecondStage


def reconstruct_folder(
    path: str, folder: str | Path, out: str | Path, yaml: str | None = None
) -> str:
    """Writes OUT/NAME.png for each picture under `folder`; returns a line with the mean PSNR (or
    the share of right labels).
    """
    model = load(path, yaml)
    model = model.first_stage if isinstance(model, SecondStage) else model
    if not Path(folder).is_dir():
        raise UserError(f"picture folder '{folder}' does not exist")
    if Path(folder).resolve() in (Path(out).resolve(), *Path(out).resolve().parents):
        raise UserError(
            f"-o {out} lies in the picture folder '{folder}', where results could overwrite"
            " pictures; choose another"
        )
    make_writable(Path(out))
    scores = []
    for name, picture in named(found(Path(folder), folder), Path(folder)):
        scores.append(_reconstruct(model, picture, Path(out) / f"{name}.png"))
    unit = "dB PSNR" if model.key != "segmentation" else "of the labels right"
    return f"{len(scores)} pictures in '{out}': {sum(scores) / len(scores):.4g} {unit} on average"


@torch.no_grad()
def _reconstruct(model: Autoencoder, picture: Path, target: Path) -> float:
    """Any size: padded to a multiple of the stride, and cropped back."""
    is_mask = model.key == "segmentation"
    original = (mask_to_tensor(read_mask(picture)) if is_mask else to_tensor(read_image(picture)))[
        None
    ]
    height, width = original.shape[-2:]
    padded = pad_to_multiple(original, model.multiple)
    decoded = model.reconstruct(padded)[..., :height, :width]
    if is_mask:
        labels = decoded.argmax(dim=1)
        images.save(Image.fromarray(labels[0].byte().numpy()), target)
        return float((labels == original).float().mean())
    images.save(decoded[0], target)
    return float(
        10 * torch.log10(4 / (decoded.clamp(-1, 1) - original).square().mean().clamp(min=1e-10))
    )
