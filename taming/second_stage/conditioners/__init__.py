"""What a prior can be conditioned on: one file for each."""

from taming.second_stage.conditioners.boxes import Boxes
from taming.second_stage.conditioners.class_label import ClassLabel
from taming.second_stage.conditioners.coarser import CoarserCodes
from taming.second_stage.conditioners.coordinates import Coordinates
from taming.second_stage.conditioners.edges import Edges
from taming.second_stage.conditioners.encoded_image import EncodedImage
from taming.second_stage.conditioners.entries import entry_of
from taming.second_stage.conditioners.label_map import LabelMap
from taming.second_stage.conditioners.low_resolution import LowResolution
from taming.second_stage.conditioners.style import Style
from taming.second_stage.conditioners.text import Text
from taming.second_stage.conditioners.together import Together
from taming.second_stage.conditioners.unconditional import Unconditional

__all__ = [
    "Boxes",
    "ClassLabel",
    "CoarserCodes",
    "Coordinates",
    "Edges",
    "EncodedImage",
    "LabelMap",
    "LowResolution",
    "Style",
    "Text",
    "Together",
    "Unconditional",
    "entry_of",
]
