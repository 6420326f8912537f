"""Ways to make a latent discrete."""

from taming.first_stage.quantizers.ema import EMAQuantizer
from taming.first_stage.quantizers.gumbel import GumbelQuantizer
from taming.first_stage.quantizers.nearest import nearest
from taming.first_stage.quantizers.remapped import RemappedQuantizer
from taming.first_stage.quantizers.vector import VectorQuantizer

__all__ = ["EMAQuantizer", "GumbelQuantizer", "RemappedQuantizer", "VectorQuantizer", "nearest"]
