"""What a prior can be conditioned on: one file for each."""

from taming.second_stage.conditioners.boxes import Boxes
from taming.second_stage.conditioners.class_label import ClassLabel
from taming.second_stage.conditioners.coarser import CoarserCodes
from taming.second_stage.conditioners.coordinates import Coordinates
from taming.second_stage.conditioners.encoded_image import EncodedImage
from taming.second_stage.conditioners.entries import entry_of
from taming.second_stage.conditioners.unconditional import Unconditional

__all__ = [
    "Boxes",
    "ClassLabel",
    "CoarserCodes",
    "Coordinates",
    "EncodedImage",
    "Unconditional",
    "entry_of",
]
