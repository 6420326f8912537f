"""What an autoencoder preserves of pictures: how near they come back, and which codes they
become.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from taming import images
from taming.errors import UserError
from taming.evaluation import colour
from taming.evaluation.features import FeatureNetwork
from taming.evaluation.frechet import frechet, too_few
from taming.evaluation.generation import names
from taming.evaluation.intervals import Estimate, average
from taming.evaluation.layout import confusions, label_figures
from taming.evaluation.rows import Measurer, Rows
from taming.evaluation.session import Session
from taming.first_stage.interface import Autoencoder, Codes, FirstStage, Reconstruction
from taming.first_stage.perceptual import perceptual_distance
from taming.images import to_uint8

PERFECT = 100.0  # dB, for pictures that come back unchanged
MS_SSIM_SIDE = 176  # five scales of an 11 x 11 window
SSIM_SIDE = 11
SMALLEST = 64  # pixels; smaller pictures are enlarged for perceptual networks
KINDS = ("lpips", "lpips-alex", "stlpips")
FIGURES = ("psnr", "ssim", "ms_ssim", *KINDS, "bits_per_dim")

Distances = dict[str, Callable[[Tensor, Tensor], Tensor]]


def evaluate(session: Session) -> None:
    """psnr, ssim, ...; of a mask tokenizer the labels that come back."""
    if session.first is None:
        return
    rows = measured(session)
    seed = session.request.seed
    # 1. a mask tokenizer
    if "confusion" in rows:
        figures = label_figures(rows["confusion"], seed)
        session.add({f"labels_{name}": value for name, value in figures.items()}, session.stamp())
        return
    # 2. means over pictures
    session.add(picture_figures(rows, seed), session.stamp())
    for name, estimate in colour.figures(rows, seed).items():
        session.figures.add(name, estimate, session.stamp(), colour.note(name))
    if "ms_ssim" not in rows:
        session.figures.missing.append(
            f"MS-SSIM: its five scales need pictures of at least {MS_SSIM_SIDE} pixels"
        )
    # 3. the distance between the two sets
    if session.network is not None and len(session.data) > 1:
        name = names(session.network)["rfd"]
        estimate = frechet(rows["original"], rows["features"], seed)
        stamp = session.stamp(features=True)
        session.add({name: estimate}, stamp, "reconstructions against originals")
        warning = too_few(len(session.data), rows["features"].shape[1])
        if warning:
            session.figures.warnings.append(f"{name}: {warning}")
    session.save("reconstructions.png", _montage(session, session.first, rows["psnr"]))


def measured(session: Session) -> Rows:
    """The rows of this part, which the codes and the copying figure need too."""
    assert session.first is not None
    perceptual: Distances = {}
    is_new = not session.rows("reconstruction")
    if is_new and session.first.key != "segmentation" and "reconstruction" in session.request.only:
        perceptual, missing = distances()
        session.figures.missing += missing
    measurer = measurer_of(session.first, perceptual, session.network)
    networks = [distance for distance in perceptual.values() if isinstance(distance, nn.Module)]
    return session.measure("reconstruction", session.data, measurer, networks)


@torch.no_grad()
def _montage(session: Session, first: Autoencoder, psnr: np.ndarray) -> Tensor:
    """Originals and reconstructions: the worst four, the median four, the best four."""
    order, middle = np.argsort(np.asarray(psnr)), len(psnr) // 2
    chosen = [*order[:4], *order[max(0, middle - 2) : middle + 2], *order[-4:]]
    originals = torch.stack([session.data[int(i)]["image"] for i in chosen])
    pairs = originals, first.reconstruct(originals).clamp(-1, 1)
    third = len(chosen) // 3
    return images.montage([part[i * third : (i + 1) * third] for i in range(3) for part in pairs])


def distances(kinds: tuple[str, ...] = KINDS) -> tuple[Distances, list[str]]:
    """The perceptual distances whose weights are at hand, and why the others are missing."""
    networks, missing = {}, []
    for kind in kinds:
        try:
            networks[kind] = perceptual_distance(kind)
        except UserError as error:
            missing.append(str(error).replace("perceptual: ", "", 1).split("; put")[0])
    return networks, missing


def compared(original: Tensor, image: Tensor, perceptual: Distances) -> dict[str, Tensor]:
    """Figures of each picture (B,): psnr in dB, ssim from 11 pixels on, ms_ssim from 176, and
    perceptual distances (small pictures enlarged to 64 pixels).

    Args:
        original, image: (B, C, H, W) in [-1, 1]; both are rounded to 8 bits.
        perceptual: distances by name.
    """
    x, y = (to_uint8(picture).double() for picture in (original, image))
    side = min(image.shape[-2:])
    options = {"data_range": 255.0, "reduction": "none"}
    figures = {"psnr": peak_signal_noise_ratio(y, x, dim=(1, 2, 3), **options).clamp(max=PERFECT)}
    if side >= SSIM_SIDE:
        ssim = structural_similarity_index_measure(y, x, **options)
        figures["ssim"] = ssim.reshape(len(image))
    if side >= MS_SSIM_SIDE:
        ms_ssim = multiscale_structural_similarity_index_measure(y, x, **options)
        figures["ms_ssim"] = ms_ssim.reshape(len(image))
    inputs = [(picture.float() / 127.5 - 1).expand(-1, 3, -1, -1) for picture in (x, y)]
    if side < SMALLEST:
        scale = math.ceil(SMALLEST / side)
        inputs = [F.interpolate(part, scale_factor=scale, mode="bilinear") for part in inputs]
    for name, distance in perceptual.items():
        figures[name] = distance(*inputs).double()
    return figures


def measurer_of(
    model: Autoencoder, perceptual: Distances, network: FeatureNetwork | None
) -> Measurer:
    """What `rows.measure` calls with each batch."""

    def of_pictures(batch: dict) -> dict[str, Tensor]:
        original = batch["image"]
        image, codes, bits = _reconstructed(model, original)
        if not torch.isfinite(image).all():
            raise UserError(
                "reconstructions hold NaN or infinity: the weights of this model are broken; go"
                " back to an earlier checkpoint (taming doctor RUN says more)"
            )
        rows = compared(original, image, perceptual)
        rows |= colour.measured(original, image, model.stride)
        if network is not None:
            rows["features"], rows["original"] = (
                network(part)["features"] for part in (image, original)
            )
        rows |= _levels(codes)
        return rows if bits is None else rows | {"bits_per_dim": bits}

    if model.key == "segmentation":
        return lambda batch: _labels(model, batch["segmentation"])
    return of_pictures


def _labels(model: Autoencoder, masks: Tensor) -> dict[str, Tensor]:
    """Of masks (B, H, W): which labels come back as which, and the codes."""
    assert isinstance(model, FirstStage) and model.labels is not None
    codes = model.encode(masks)
    labels = model.decode(codes).argmax(dim=1)
    return {"confusion": confusions(masks, labels, model.labels), **_levels(codes)}


def _reconstructed(model: Autoencoder, original: Tensor) -> tuple[Tensor, Codes, Tensor | None]:
    """(image, codes, bits per number (B,) or None) of a batch."""
    if isinstance(model, FirstStage):
        output = model(original)
        return output.image.clamp(-1, 1), output.codes, _bits(model, original, output)
    image = model.reconstruct(original).clamp(-1, 1)
    # A VAE: its noise must not depend on the batch, so one by one
    bits = [_bits(model, one, model(one)) for one in original.split(1)]
    numbers = [one for one in bits if one is not None]
    return image, (), torch.cat(numbers) if numbers else None


def _bits(model: Autoencoder, image: Tensor, reconstruction: Reconstruction) -> Tensor | None:
    """An upper bound on -log2 p of the 8-bit picture, per number, (B,): of the likelihood, and of
    the latent (a VAE's KL term, or log2 K for each code).
    """
    if reconstruction.likelihood is None:
        return None
    bits = reconstruction.likelihood.bits(image, reconstruction.output)
    if bits is None:
        return None
    bits = bits.flatten(1).mean(dim=1)
    if not reconstruction.codes:
        return bits + reconstruction.quantizer_loss / math.log(2)
    return bits + code_bits(model, image)


def code_bits(model: Autoencoder, image: Tensor) -> float:
    """log2 K of each code of a picture, over its numbers."""
    grids = model.grids(*image.shape[-2:])
    return sum(h * w * math.log2(k) for (h, w), k in zip(grids, model.num_codes)) / image[0].numel()


def _levels(codes: Codes) -> dict[str, Tensor]:
    return {f"codes_{level}": grid.to(torch.int32) for level, grid in enumerate(codes)}


def picture_figures(rows: Rows, seed: int) -> dict[str, Estimate]:
    """Means over pictures."""
    present = [name for name in rows if name in FIGURES]
    return {name.replace("-", "_"): average(rows[name], seed) for name in present}
