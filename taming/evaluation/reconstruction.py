"""What an autoencoder keeps of pictures: how near they come back, and which codes they become."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from taming.errors import UserError
from taming.evaluation.features import FeatureNetwork
from taming.evaluation.intervals import Estimate, average
from taming.evaluation.layout import confusions
from taming.first_stage.interface import Autoencoder, FirstStage, Reconstruction
from taming.first_stage.perceptual import perceptual_distance
from taming.images import to_uint8

PERFECT = 100.0  # dB, for pictures that come back unchanged
MS_SSIM_SIDE = 176  # five scales of an 11 x 11 window
SMALLEST = 64  # the short side that perceptual nets are shown at least


def distances(
    kinds: tuple[str, ...] = ("lpips", "lpips-alex", "stlpips"),
) -> tuple[dict[str, Callable], list[str]]:
    """The perceptual distances whose weights are at hand, and what is missing of the others."""
    there, left = {}, []
    for kind in kinds:
        try:
            there[kind] = perceptual_distance(kind)
        except UserError as error:
            left.append(str(error).replace("perceptual: ", "", 1).split("; put")[0])
    return there, left


def compared(original: Tensor, image: Tensor, perceptual: dict[str, Callable]) -> dict[str, Tensor]:
    """Per picture, of (B, C, H, W) in [-1, 1], both rounded to 8 bits: psnr in dB, ssim, ms_ssim
    from 176 pixels on, and perceptual distances (small pictures enlarged to 64 pixels).
    """
    theirs, ours = (to_uint8(x).double() for x in (original, image))
    found = {
        "psnr": (
            peak_signal_noise_ratio(
                ours, theirs, data_range=255.0, reduction="none", dim=(1, 2, 3)
            ).clamp(max=PERFECT)
        )
    }
    side = min(image.shape[-2:])
    if side >= 11:
        found["ssim"] = structural_similarity_index_measure(
            ours, theirs, data_range=255.0, reduction="none"
        ).reshape(len(image))
    if side >= MS_SSIM_SIDE:
        found["ms_ssim"] = multiscale_structural_similarity_index_measure(
            ours, theirs, data_range=255.0, reduction="none"
        ).reshape(len(image))
    shown = [(x.float() / 127.5 - 1).expand(-1, 3, -1, -1) for x in (theirs, ours)]
    if side < SMALLEST:
        shown = [
            F.interpolate(x, scale_factor=math.ceil(SMALLEST / side), mode="bilinear")
            for x in shown
        ]
    return found | {name: distance(*shown).double() for name, distance in perceptual.items()}


def measurer(
    model: Autoencoder, perceptual: dict[str, Callable], network: FeatureNetwork | None
) -> Callable[[dict], dict[str, Tensor]]:
    """What `rows.measure` asks of each batch."""

    def of_labels(batch: dict) -> dict[str, Tensor]:
        codes = model.encode(batch["segmentation"])
        found = model.decode(codes).argmax(dim=1)
        return {
            "confusion": confusions(batch["segmentation"], found, model.labels),
            **_levels(codes),
        }

    def of_pictures(batch: dict) -> dict[str, Tensor]:
        image = batch["image"]
        reconstruction = model(image) if isinstance(model, FirstStage) else None
        made = (reconstruction.image if reconstruction else model.reconstruct(image)).clamp(-1, 1)
        found = compared(image, made, perceptual)
        if network is not None:
            found["features"], found["original"] = (network(x)["features"] for x in (made, image))
        if reconstruction is None:  # a VAE: its noise must not depend on the batch, so one by one
            bits = [_bits(model, one, model(one)) for one in image.split(1)]
        else:
            bits = _bits(model, image, reconstruction)
            found |= _levels(reconstruction.codes)
        if isinstance(bits, list):
            bits = torch.cat(bits) if bits[0] is not None else None
        return found if bits is None else found | {"bits_per_dim": bits}

    return of_labels if model.key == "segmentation" else of_pictures


def _bits(model: Autoencoder, image: Tensor, reconstruction: Reconstruction) -> Tensor | None:
    """An upper bound on -log2 p of the 8-bit picture, per number, (B,): of the likelihood, and of
    the latent (a VAE's KL term, or log2 K for each code).
    """
    bits = reconstruction.likelihood and reconstruction.likelihood.bits(
        image, reconstruction.output
    )
    if bits is None:
        return None
    if not reconstruction.codes:
        return bits.flatten(1).mean(dim=1) + reconstruction.quantizer_loss / math.log(2)
    return bits.flatten(1).mean(dim=1) + code_bits(model, image)


def code_bits(model: FirstStage, image: Tensor) -> float:
    """log2 K of each code of a picture, over its numbers."""
    grids = model.grids(*image.shape[-2:])
    return sum(h * w * math.log2(k) for (h, w), k in zip(grids, model.num_codes)) / image[0].numel()


def _levels(codes) -> dict[str, Tensor]:
    return {f"codes_{level}": grid.to(torch.int32) for level, grid in enumerate(codes)}


def picture_figures(rows: dict[str, np.ndarray], seed: int) -> dict[str, Estimate]:
    """Means over pictures."""
    names = [
        name
        for name in rows
        if name in ("psnr", "ssim", "ms_ssim", "lpips", "lpips-alex", "stlpips", "bits_per_dim")
    ]
    return {name.replace("-", "_"): average(rows[name], seed) for name in names}
