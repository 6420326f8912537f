"""Ways to make a latent discrete."""

from taming.first_stage.quantizers.ema import EMAQuantizer
from taming.first_stage.quantizers.fsq import FSQ
from taming.first_stage.quantizers.gumbel import GumbelQuantizer
from taming.first_stage.quantizers.index import IBQ
from taming.first_stage.quantizers.lfq import LFQ
from taming.first_stage.quantizers.multiscale import MultiScaleQuantizer
from taming.first_stage.quantizers.nearest import nearest
from taming.first_stage.quantizers.remapped import RemappedQuantizer
from taming.first_stage.quantizers.residual import ResidualQuantizer
from taming.first_stage.quantizers.simvq import SimVQ
from taming.first_stage.quantizers.vector import VectorQuantizer

__all__ = [
    "EMAQuantizer",
    "GumbelQuantizer",
    "SimVQ",
    "IBQ",
    "LFQ",
    "MultiScaleQuantizer",
    "RemappedQuantizer",
    "ResidualQuantizer",
    "FSQ",
    "VectorQuantizer",
    "nearest",
]
