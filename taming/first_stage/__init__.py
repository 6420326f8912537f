"""First stage: image <-> codes."""

from taming.first_stage.discriminator import PatchDiscriminator
from taming.first_stage.interface import Codes, FirstStage, Quantized, Quantizer, Reconstruction
from taming.first_stage.losses import MaskLoss, VQGANLoss
from taming.first_stage.pretrained import pretrained
from taming.first_stage.quantizers import (
    EMAQuantizer,
    GumbelQuantizer,
    LinearQuantizer,
    LookupFreeQuantizer,
    RemappedQuantizer,
    ResidualQuantizer,
    ScalarQuantizer,
    VectorQuantizer,
)
from taming.first_stage.vqgan import VQGAN, MaskVQGAN

__all__ = [
    "Codes",
    "EMAQuantizer",
    "FirstStage",
    "GumbelQuantizer",
    "LinearQuantizer",
    "LookupFreeQuantizer",
    "MaskLoss",
    "MaskVQGAN",
    "PatchDiscriminator",
    "Quantized",
    "Quantizer",
    "Reconstruction",
    "RemappedQuantizer",
    "ResidualQuantizer",
    "ScalarQuantizer",
    "VQGAN",
    "VQGANLoss",
    "VectorQuantizer",
    "pretrained",
]
