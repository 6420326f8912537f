"""CompVis's published YAML and weights <-> ours: the only room that knows their names."""

from taming.formats.compvis.gpt import CompVisGPT

__all__ = ["CompVisGPT"]
