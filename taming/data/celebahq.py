"""CelebA-HQ (Karras et al. 2018, arXiv 1710.10196) as the .npy files of its tool or as pictures,
and CelebAMask-HQ (Lee et al. 2020, arXiv 1907.11922) as its README.txt lays it out:

    ROOT/CelebA-HQ-img/0.jpg ... 29999.jpg                     1024 x 1024
    ROOT/CelebAMask-HQ-mask-anno/0/00000_hair.png ...          512 x 512, one file a part
    ROOT/CelebA-HQ-to-CelebA-mapping.txt                       idx, orig_idx, orig_file

Both follow CelebA's parts, the first 162,770 pictures of which are for training, where the mapping
is there; else the last sixth in the order of the names is for validation.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from taming.data.folder import find_pictures
from taming.data.reading import EXTENSIONS, CorruptImage, image_size, read_image
from taming.data.records import Part, PublishedSet, Record, first_of, folder_of, lines_of
from taming.errors import UserError, first_line

PICTURES = ("CelebA-HQ-img", "celeba_hq*", "data*", ".")
MASKS = "CelebAMask-HQ-mask-anno"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
TRAINING = 162_770  # of CelebA, list_eval_partition.txt
PARTS = (  # in the order in which they are painted: later ones cover earlier ones
    "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l"
    " neck cloth"
).split()
FOLDER_SIZE = 2000  # pictures in one folder of masks


class CelebAHQ(PublishedSet):
    """Faces, as pictures or as arrays uint8 (1, 3, H, W) in .npy files.

    Args:
        root: the folder of the pictures, or that of CelebAMask-HQ.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    def read_records(self, root: Path, split: Part) -> list[Record]:
        return celebahq_records(root, split)

    def read_picture(self, record: Record) -> Image.Image:
        return read_face(record.path)

    def picture_size(self, record: Record) -> tuple[int, int]:
        return face_size(record.path)


class CelebAMaskHQ(PublishedSet):
    """Faces with label maps of 19 classes: background and 18 parts. A part that has no file is not
    seen.

    Args:
        root: the folder that holds CelebA-HQ-img/ and CelebAMask-HQ-mask-anno/.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    classes = ("background", *PARTS)

    def read_records(self, root: Path, split: Part) -> list[Record]:
        masks = folder_of(root, f"CelebAMask-HQ: CelebA-HQ-img/ and {MASKS}/", MASKS)
        records = []
        for record in celebahq_records(root, split):
            number = int(record.path.stem) if record.path.stem.isdigit() else -1
            place = masks / str(number // FOLDER_SIZE) / f"{number:05d}_skin.png"
            records.append(Record(record.path, place))
        return records

    def files(self, index: int) -> list[Path]:
        return [self.paths[index], *(path for path, _ in self._parts(self.records[index]))]

    def mask_size(self, record: Record) -> tuple[int, int]:
        return image_size(self._parts(record)[0][0])

    def read_labels(self, record: Record) -> Image.Image:
        labels: np.ndarray | None = None
        for path, label in self._parts(record):
            part = np.asarray(read_image(path).convert("L"))  # published in RGB
            labels = np.zeros(part.shape, np.uint8) if labels is None else labels
            if part.shape != labels.shape:
                raise CorruptImage(f"'{path}' has another size than the other parts of its face")
            labels = np.where(part > 0, np.uint8(label), labels)
        assert labels is not None
        return Image.fromarray(labels)

    def _parts(self, record: Record) -> list[tuple[Path, int]]:
        """The files of a face with their labels."""
        assert record.mask is not None
        stem = record.mask.name.removesuffix("_skin.png")
        paths = [record.mask.with_name(f"{stem}_{part}.png") for part in PARTS]
        parts = [(path, i) for i, path in enumerate(paths, start=1) if path.is_file()]
        if not parts:
            raise CorruptImage(f"picture '{record.path}' has no part '{stem}_*.png' in '{MASKS}'")
        return parts


def recognises(root: Path) -> bool:
    return first_of(root, "imgHQ*.npy", "*/imgHQ*.npy", "CelebA-HQ-img") is not None


def recognises_masks(root: Path) -> bool:
    return (root / MASKS).is_dir()


def celebahq_records(root: Path, split: str) -> list[Record]:
    folder = folder_of(root, "CelebA-HQ: CelebA-HQ-img/, or imgHQ*.npy", *PICTURES)
    paths = find_pictures(folder, folder, (*EXTENSIONS, ".npy"))
    numbered = [path for path in paths if path.stem.isdigit()]
    if len(numbered) == len(paths):
        paths.sort(key=lambda path: int(path.stem))
    mapping = first_of(root, MAPPING)
    if mapping:
        training = _training(mapping)
        in_train = [path.stem.isdigit() and int(path.stem) in training for path in paths]
    else:
        in_train = [i < len(paths) - len(paths) // 6 for i in range(len(paths))]
    return [Record(path) for path, one in zip(paths, in_train) if one == (split == "train")]


def _training(mapping: Path) -> set[int]:
    """Numbers of the pictures that CelebA trains on."""
    numbers = set()
    for line in lines_of(mapping)[1:]:
        words = line.split()
        if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
            raise UserError(f"'{mapping}': '{line}' should be idx, orig_idx, orig_file")
        if int(words[1]) < TRAINING:
            numbers.add(int(words[0]))
    return numbers


def face_size(path: Path) -> tuple[int, int]:
    """(width, height) of what `read_face` reads, without reading the pixels of a picture."""
    return read_face(path).size if path.suffix == ".npy" else image_size(path)


def read_face(path: Path) -> Image.Image:
    """A picture in RGB; of .npy files uint8 (1, 3, H, W), as the tool of CelebA-HQ writes them."""
    if path.suffix != ".npy":
        return read_image(path)
    try:
        array = np.load(path)
    except Exception as error:  # NumPy raises many kinds
        raise CorruptImage(f"'{path}' is no readable array ({first_line(error)})") from None
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] != 3:
        raise CorruptImage(
            f"'{path}' is {array.dtype} {array.shape}; uint8 (1, 3, H, W) is expected"
        )
    return Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))
