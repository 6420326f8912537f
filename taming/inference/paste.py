"""Known pixels over a drawn picture: to the bit outside what was drawn anew, blended inside it."""

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.inference.known import KnownPart
from taming.second_stage.interface import describe

WIDEST = 512  # pixels of a seam


def paste(pictures: Tensor, image: Tensor, stays: Tensor, seam: int = 0) -> Tensor:
    """Pictures in which every pixel of `stays` is the image's.

    Args:
        pictures: drawn, (B, C, H, W) in [-1, 1].
        image: the known picture, (1 or B, C, H, W) in [-1, 1].
        stays: bool (1 or B, H, W).
        seam: pixels inside what was drawn anew over which it is blended with the image; 0: none.

    Raises:
        UserError: for other sizes, and a seam out of its range.
    """
    check_seam(seam)
    if image.shape[-3:] != pictures.shape[-3:] or stays.shape[-2:] != pictures.shape[-2:]:
        raise UserError(
            f"the known image, {describe(image)}, and its mask, {describe(stays)}, should have the"
            f" size of the pictures, {describe(pictures)}"
        )
    weight = feathered(~stays, seam)[:, None].to(pictures)
    # Not by adding products: what stays must stay to the bit
    blended = image + weight * (pictures - image)
    return torch.where(stays[:, None], image, blended)


def check_seam(seam: int) -> None:
    """Raises UserError for what is no number of pixels."""
    if not isinstance(seam, int) or not 0 <= seam <= WIDEST:
        raise UserError(f"seam {seam!r} should be a whole number from 0 to {WIDEST}")


def pasted(pictures: Tensor, known: KnownPart, batch: dict, seam: int) -> Tensor:
    """What stays of a picture over those that were drawn from a batch, on the CPU."""
    image, stays = known.tensors(batch, len(pictures))
    return paste(pictures, image.cpu(), stays.cpu(), seam)


def feathered(region: Tensor, seam: int) -> Tensor:
    """Weights (B, H, W) of what was drawn in a region, bool (B, H, W): 0 outside, rising in equal
    steps to 1 over `seam` pixels inside; the picture's edges are no seam.
    """
    inside = region[:, None].float()
    total = inside.clone()
    for _ in range(seam):
        inside = -nn.functional.max_pool2d(-inside, 3, stride=1, padding=1)
        total += inside
    return total[:, 0] / (seam + 1)
