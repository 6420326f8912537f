"""S-FLCKR (Esser et al. 2021, arXiv 2012.09841): landscapes from Flickr and Reddit with masks that
a DeepLab v2 for COCO-Stuff made. The set itself can't be had; this is the layout of the examples
that the published code ships, and the one to bring pictures of one's own into:

    ROOT/sflckr_images/countries/norway/25735082181_999927fe5a_b.jpg
    ROOT/sflckr_segmentations/countries/norway/25735082181_999927fe5a_b.png     labels 0 to 181
    ROOT/sflckr_examples.txt                                                    names, one a line
"""

from pathlib import Path

from taming.data.coco_labels import STUFF
from taming.data.folder import (
    Split,
    ViewParameters,
    find_list,
    find_pictures,
    listed_pictures,
    part_of,
)
from taming.data.records import Record, RecordSet, Seed, check_masks, folder_of, matching

IMAGES, MASKS = "sflckr_images", "sflckr_segmentations"
LAYOUT = f"S-FLCKR: {IMAGES}/, {MASKS}/"


class SFLCKR(RecordSet):
    """Landscapes with label maps of COCO-Stuff's 182 labels, from 0.

    Args:
        root: the folder that holds sflckr_images/ and sflckr_segmentations/ (or images/ and
            segmentations/).
        view: of each picture, see ImageFolder.
        list: see ImageFolder.
        split: see ImageFolder; the published one was random, 96,861 and 10,764 pictures.
        seed: of the split and of the views.
    """

    classes = STUFF[1:]

    def __init__(
        self,
        root: str,
        view: ViewParameters = 256,
        list: str | None = None,
        split: Split | None = None,
        seed: Seed = 0,
    ):
        images = folder_of(root, LAYOUT, IMAGES, "images")
        masks = folder_of(root, LAYOUT, MASKS, "segmentations")
        if list:
            file = find_list(Path(root), list)
            paths = listed_pictures((images, Path(root), Path()), file)
        else:
            paths = find_pictures(images, images)
        paths = part_of(paths, split, seed) if split else paths
        records = [Record(path, matching(path, images, masks, ".png")) for path in paths]
        check_masks(records)
        super().__init__(root, records, view, seed)


def recognises(root: Path) -> bool:
    return (root / IMAGES).is_dir()
