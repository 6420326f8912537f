"""First stage: image <-> codes."""

from taming.first_stage.discriminator import PatchDiscriminator
from taming.first_stage.interface import Codes, FirstStage, Quantized, Quantizer, Reconstruction
from taming.first_stage.losses import MaskLoss, VQGANLoss
from taming.first_stage.pretrained import pretrained
from taming.first_stage.quantizers import EMAQuantizer, GumbelQuantizer, RemappedQuantizer, VectorQuantizer
from taming.first_stage.vqgan import VQGAN, MaskVQGAN

__all__ = [
    "Codes",
    "EMAQuantizer",
    "FirstStage",
    "GumbelQuantizer",
    "MaskLoss",
    "MaskVQGAN",
    "PatchDiscriminator",
    "Quantized",
    "Quantizer",
    "Reconstruction",
    "RemappedQuantizer",
    "VQGAN",
    "VQGANLoss",
    "VectorQuantizer",
    "pretrained",
]
