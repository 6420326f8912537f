"""Data sets: items are dictionaries with any of image, segmentation, depth, class, caption and
name.
"""

from taming.data.depth import DepthImages
from taming.data.folder import ClassFolders, ImageFolder
from taming.data.landscapes import DrawnLandscapes
from taming.data.segmentation import SegmentedImages
from taming.data.views import View

__all__ = [
    "ClassFolders",
    "DepthImages",
    "DrawnLandscapes",
    "ImageFolder",
    "SegmentedImages",
    "View",
]
