"""Where pictures come from, as a verb names it: a folder, shards, or a configuration's data set."""

from collections.abc import Sequence
from pathlib import Path

from taming.config import build, load
from taming.data.folder import ImageFolder, ViewParameters
from taming.data.interface import PictureSet
from taming.data.segmentation import IMAGES, MASKS, SegmentedImages
from taming.data.shards import Shards
from taming.errors import UserError

YAML = (".yaml", ".yml")


def pictures_of(
    source: str, view: ViewParameters, part: str = "train", allow: Sequence[str] = ()
) -> PictureSet:
    """The data set that a word of the command line means.

    Args:
        source: a folder of pictures; one with images/ and segmentations/; shards (a pattern that
            ends in .tar); or a configuration (.yaml), whose data set is taken as it is.
        view: of each picture; not of a configuration's.
        part: of a configuration: train or validation.
        allow: packages of one's own that a configuration may name.

    Raises:
        UserError: there is nothing of that name.
    """
    if source.endswith(YAML):
        data = load([source], allow=allow).data
        node = {"train": data.train, "validation": data.validation}[part]
        if not node:
            raise UserError(f"'{source}' names no data.{part}")
        return build(node, allow, f"data.{part}")
    if source.endswith(".tar"):
        return Shards(source, view)
    if not Path(source).is_dir():
        raise UserError(
            f"'{source}' is no folder of pictures, no shards (data/{{00000..00099}}.tar) and no"
            " configuration (.yaml)"
        )
    if Path(source, IMAGES).is_dir() and Path(source, MASKS).is_dir():
        return SegmentedImages(source, view)
    return ImageFolder(source, view)
