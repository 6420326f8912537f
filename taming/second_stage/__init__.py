"""Second stage: codes ~ p(codes | condition)."""

from taming.second_stage.cascade import Cascade
from taming.second_stage.conditioners import (
    Boxes,
    ClassLabel,
    CoarserCodes,
    Coordinates,
    Edges,
    EncodedImage,
    LabelMap,
    LowResolution,
    Style,
    Text,
    Together,
    Unconditional,
)
from taming.second_stage.gpt import GPT
from taming.second_stage.interface import Condition, Conditioner, Part, Prior
from taming.second_stage.masked import MaskedPrior
from taming.second_stage.model import SecondStage
from taming.second_stage.pixelcnn import GatedPixelCNN
from taming.second_stage.pixelsnail import PixelSNAIL
from taming.second_stage.sampling import Sampling, filter_logits, sample

__all__ = [
    "GPT",
    "Boxes",
    "Cascade",
    "ClassLabel",
    "CoarserCodes",
    "Condition",
    "Conditioner",
    "Coordinates",
    "Edges",
    "EncodedImage",
    "GatedPixelCNN",
    "LabelMap",
    "LowResolution",
    "MaskedPrior",
    "Part",
    "PixelSNAIL",
    "Prior",
    "Sampling",
    "SecondStage",
    "Style",
    "Text",
    "Together",
    "Unconditional",
    "filter_logits",
    "sample",
]
