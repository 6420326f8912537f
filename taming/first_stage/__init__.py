"""First stage: image <-> codes."""

from taming.first_stage.colour import YCbCr
from taming.first_stage.discriminator import PatchDiscriminator
from taming.first_stage.dvae import DVAE
from taming.first_stage.interface import (
    Autoencoder,
    Codes,
    FirstStage,
    Quantized,
    Quantizer,
    Reconstruction,
)
from taming.first_stage.likelihood import GaussianLikelihood, LogitLaplaceLikelihood
from taming.first_stage.losses import LikelihoodLoss, MaskLoss, VQGANLoss
from taming.first_stage.maskgit import MaskGITVQGAN
from taming.first_stage.projected_discriminator import ProjectedDiscriminator
from taming.first_stage.quantizers import (
    FSQ,
    IBQ,
    LFQ,
    EMAQuantizer,
    GumbelQuantizer,
    MultiScaleQuantizer,
    RemappedQuantizer,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
)
from taming.first_stage.segmenting_discriminator import SegmentingDiscriminator
from taming.first_stage.vae import VAE
from taming.first_stage.vqgan import VQGAN, MaskVQGAN
from taming.first_stage.vqvae import VQVAE
from taming.first_stage.vqvae2 import VQVAE2

__all__ = [
    "DVAE",
    "VAE",
    "VQVAE",
    "VQVAE2",
    "Autoencoder",
    "GaussianLikelihood",
    "LikelihoodLoss",
    "LogitLaplaceLikelihood",
    "Codes",
    "EMAQuantizer",
    "FirstStage",
    "GumbelQuantizer",
    "SimVQ",
    "IBQ",
    "LFQ",
    "MaskGITVQGAN",
    "MaskLoss",
    "MaskVQGAN",
    "MultiScaleQuantizer",
    "PatchDiscriminator",
    "ProjectedDiscriminator",
    "Quantized",
    "Quantizer",
    "Reconstruction",
    "RemappedQuantizer",
    "ResidualQuantizer",
    "SegmentingDiscriminator",
    "FSQ",
    "VQGAN",
    "VQGANLoss",
    "VectorQuantizer",
    "YCbCr",
]

# Names of earlier versions
ScalarQuantizer, LookupFreeQuantizer, LinearQuantizer = FSQ, LFQ, SimVQ
