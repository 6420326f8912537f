"""Data sets: items are dictionaries with any of image, segmentation, depth, class, caption, boxes,
coordinates, edges and name.
"""

from taming.data.ade20k import ADE20K
from taming.data.captions import CaptionTable
from taming.data.celebahq import CelebAHQ, CelebAMaskHQ
from taming.data.cityscapes import Cityscapes
from taming.data.coco import COCO
from taming.data.codes import Codes
from taming.data.concatenated import Concatenated
from taming.data.coordinates import CoordinateCrops
from taming.data.depth import DepthImages
from taming.data.drin import DRIN
from taming.data.edges import EdgeImages
from taming.data.faceshq import FacesHQ
from taming.data.ffhq import FFHQ
from taming.data.flickr import SFLCKR
from taming.data.folder import ClassFolders, ImageFolder
from taming.data.hf import HFDataset
from taming.data.imagenet import ImageNet
from taming.data.label_boxes import LabelBoxes
from taming.data.landscapes import DrawnDepth, DrawnLandscapes
from taming.data.lsun import LSUN
from taming.data.openimages import OpenImages
from taming.data.ordinary import OrdinaryDataset
from taming.data.paired import PairedImages
from taming.data.pieces import ScenePieces
from taming.data.segmentation import SegmentedImages
from taming.data.shards import Shards
from taming.data.views import View

__all__ = [
    "ADE20K",
    "COCO",
    "DRIN",
    "FFHQ",
    "LSUN",
    "SFLCKR",
    "CaptionTable",
    "CelebAHQ",
    "CelebAMaskHQ",
    "Cityscapes",
    "ClassFolders",
    "Codes",
    "Concatenated",
    "CoordinateCrops",
    "DepthImages",
    "DrawnDepth",
    "DrawnLandscapes",
    "EdgeImages",
    "FacesHQ",
    "HFDataset",
    "ImageFolder",
    "ImageNet",
    "LabelBoxes",
    "OpenImages",
    "OrdinaryDataset",
    "PairedImages",
    "ScenePieces",
    "SegmentedImages",
    "Shards",
    "View",
]
