"""Ways to make a latent discrete."""

from taming.first_stage.quantizers.ema import EMAQuantizer
from taming.first_stage.quantizers.gumbel import GumbelQuantizer
from taming.first_stage.quantizers.linear import LinearQuantizer
from taming.first_stage.quantizers.lookup_free import LookupFreeQuantizer
from taming.first_stage.quantizers.nearest import nearest
from taming.first_stage.quantizers.remapped import RemappedQuantizer
from taming.first_stage.quantizers.residual import ResidualQuantizer
from taming.first_stage.quantizers.scalar import ScalarQuantizer
from taming.first_stage.quantizers.vector import VectorQuantizer

__all__ = [
    "EMAQuantizer",
    "GumbelQuantizer",
    "LinearQuantizer",
    "LookupFreeQuantizer",
    "RemappedQuantizer",
    "ResidualQuantizer",
    "ScalarQuantizer",
    "VectorQuantizer",
    "nearest",
]
