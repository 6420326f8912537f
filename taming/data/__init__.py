"""Data sets: items are dictionaries with any of image, segmentation, depth, class, caption, name."""

from taming.data.depth import DepthImages
from taming.data.folder import ClassFolders, ImageFolder
from taming.data.landscapes import DrawnLandscapes
from taming.data.segmentation import SegmentedImages

__all__ = ["ClassFolders", "DepthImages", "DrawnLandscapes", "ImageFolder", "SegmentedImages"]
