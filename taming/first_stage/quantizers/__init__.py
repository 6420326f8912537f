"""Ways to make a latent discrete."""

from taming.first_stage.quantizers.nearest import nearest
from taming.first_stage.quantizers.vector import VectorQuantizer

__all__ = ["VectorQuantizer", "nearest"]
