"""Conditions from files: masks, pictures, depth maps, classes."""

import base64
import io
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.data.depth import normalise_depth, read_depth
from taming.data.folder import find_pictures
from taming.data.layouts import ENDINGS, mask_to_tensor, read_layout
from taming.data.legend import Legend, read_legend
from taming.data.reading import EXTENSIONS, image_size, read_image, to_tensor
from taming.data.views import View
from taming.errors import UserError
from taming.files import file_hash
from taming.inference.entries import (
    DERIVED,
    Entries,
    check_flags,
    combined,
    entry_batch,
    entry_conditions,
    key_of_images,
    numbered,
)
from taming.inference.known import KnownPart
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling

MOST_DESCRIBED = 12  # layouts


@dataclass(frozen=True)
class Reading:
    """How masks are to be read.

    Args:
        legend: a file with names and colours, if not those of the checkpoint.
        convention: of a published set.
        known: on whose canvas the layouts lie.
    """

    legend: str | None = None
    convention: str | None = None
    known: KnownPart | None = None


def conditions_of(
    model: SecondStage,
    out: Path,
    sampling: Sampling,
    masks: str | None,
    images: str | None,
    classes: Sequence[int | str] | None,
    reading: Reading | None = None,
    entries: Entries | None = None,
) -> list[tuple[str, dict[str, Any]]]:
    """(name, what a PNG holds of it) for everything that pictures are asked for."""
    for folder in (masks, images, *(entries or Entries()).folders()):
        if folder and Path(folder).is_dir() and _lies_in(out, Path(folder)):
            raise UserError(
                f"-o {out} lies in '{folder}', where samples would be taken for conditions next"
                " time; choose another"
            )
    conditioner, said = model.conditioner, (entries or Entries()).values()
    key = key_of_images(conditioner)
    words = {"segmentation": masks, key: images, "class": classes, **said}
    check_flags(conditioner, [name for name, value in words.items() if value is not None])
    groups: list[list[tuple[str, dict[str, Any]]]] = []
    if masks:
        groups.append(_mask_conditions(model, sampling, masks, reading or Reading()))
    if images:
        files = files_of(images, (*EXTENSIONS, ".npy") if key == "depth" else EXTENSIONS)
        if key in ("image", "depth") and len(conditioner.keys) == 1:
            groups.append([(name, {"image": [str(p), file_hash(p)]}) for name, p in files])
        else:
            groups.append(entry_conditions(model, key, images, files))
    if classes is not None:
        groups.append(_class_conditions(model, numbered(classes, model.card.classes)))
    for name, value in said.items():
        endings = (*EXTENSIONS, ".npy") if name == "depth" else EXTENSIONS
        files = [] if name in ("caption", "boxes") else files_of(value, endings)
        groups.append(entry_conditions(model, name, value, files))
    return combined(groups)


def legend_of(model: SecondStage) -> Legend | None:
    """Of the masks that the prior is conditioned on."""
    return model.card.legend(model.conditioner.labels)


def _mask_conditions(
    model: SecondStage, sampling: Sampling, masks: str, reading: Reading
) -> list[tuple[str, dict[str, Any]]]:
    """What was read is printed. Layouts keep their shape where no size is given."""
    legend = legend_of(model)
    if reading.legend and legend is not None:
        legend = read_legend(reading.legend).in_terms_of(legend.names, f"'{reading.legend}'")
    conditions = []
    files = files_of(masks, ENDINGS)
    for place, (name, path) in enumerate(files):
        layout = read_layout(path, legend, reading.convention)
        if place < MOST_DESCRIBED:
            print(layout.describe(str(path)), file=sys.stderr)
        mask = layout.filled().mask
        mask = reading.known.extended(mask) if reading.known else mask
        conditions.append((name, _packed(_fitted(mask, model, sampling, True))))
    if len(files) > MOST_DESCRIBED:
        print(f"and {len(files) - MOST_DESCRIBED} more layouts", file=sys.stderr)
    return conditions


def _lies_in(path: Path, folder: Path) -> bool:
    return folder.resolve() in (path.resolve(), *path.resolve().parents)


def _class_conditions(
    model: SecondStage, classes: Sequence[int]
) -> list[tuple[str, dict[str, Any]]]:
    if not classes or len(set(classes)) < len(classes):
        raise UserError(
            f"--classes {','.join(map(str, classes))}: name each class once, for example 0,3;"
            " -n says how many of each"
        )
    for number in classes:
        # Refuses classes that the prior does not know
        model.conditioner({"class": torch.tensor([number]), "size": model.trained_size})
    return [(f"class{number}", {"class": number}) for number in classes]


def _packed(mask: Image.Image) -> dict[str, str]:
    """A label map as a PNG in base64."""
    buffer = io.BytesIO()
    mask.save(buffer, format="PNG", optimize=True)
    return {"segmentation": base64.b64encode(buffer.getvalue()).decode()}


def unpacked_mask(text: str) -> Image.Image:
    try:
        return _mask_of(base64.b64decode(text, validate=True))
    except (ValueError, OSError, SyntaxError) as error:
        raise UserError(f"the mask in the PNG is damaged ({error})") from None


def _mask_of(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as mask:
        mask.load()
        if mask.mode not in ("L", "P", "1"):
            raise ValueError(f"its mode is {mask.mode}")
        return mask.copy()


def layout_size(condition: dict[str, Any]) -> tuple[int, int] | None:
    """(width, height) of the layout, or of the small picture, in what a PNG holds of a
    condition.
    """
    text, small = condition.get("segmentation"), condition.get("pictures", {}).get("low_resolution")
    if small:
        return image_size(small[0])
    return None if text is None else unpacked_mask(text).size


def metadata_of(model: SecondStage, item: dict) -> dict[str, Any]:
    """What a PNG holds of the condition in an item of a data set."""
    metadata: dict[str, Any] = {}
    for key in model.conditioner.keys:
        if key in READERS and key not in item:
            raise UserError(
                f"this prior is conditioned on '{key}', but the pictures to measure on have none;"
                " give --samples DIR, or --data DIR that has"
            )
        if key in READERS:
            metadata |= READERS[key](item[key])
        elif key not in DERIVED:
            raise UserError(
                f"this prior is conditioned on '{key}'; draw samples with taming sample, and give"
                " their folder as --samples DIR"
            )
    return metadata


def _box_metadata(boxes: Tensor) -> dict[str, Any]:
    rows = [(*row, 0.0) for row in boxes.tolist() if row[0] >= 0]  # five columns, or six
    return {"boxes": [[int(row[0]), *row[1:5], int(row[5])] for row in rows]}


READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "segmentation": lambda mask: _packed(Image.fromarray(mask.to(torch.uint8).numpy())),
    "class": lambda number: {"class": int(number)},
    "caption": lambda text: {"caption": str(text)},
    "boxes": _box_metadata,
}
"""Of entries of an item: what a PNG holds of them."""


def batch_of(model: SecondStage, condition: dict[str, Any], sampling: Sampling) -> dict[str, Any]:
    """The batch of one for what a PNG holds of its condition."""
    size = sampling.size
    if size is None and "segmentation" in condition:
        width, height = unpacked_mask(condition["segmentation"]).size
        size = (height, width)
    batch = entry_batch(model, condition, size)
    if "segmentation" in condition:
        mask = mask_to_tensor(unpacked_mask(condition["segmentation"]))[None]
        batch["segmentation"] = mask
    if "image" in condition:
        batch |= _picture_batch(model, Path(condition["image"][0]), sampling)
    if "class" in condition:
        batch["class"] = torch.tensor([condition["class"]])
    return batch or {"count": 1}


def _picture_batch(model: SecondStage, path: Path, sampling: Sampling) -> dict[str, Tensor]:
    if model.conditioner.key != "depth":
        return {"image": to_tensor(_fitted(read_image(path), model, sampling, False))[None]}
    depth = np.array(_fitted(read_depth(path), model, sampling, False))
    return {"depth": normalise_depth(torch.from_numpy(depth)[None])[None]}


def _fitted(
    picture: Image.Image, model: SecondStage, sampling: Sampling, is_mask: bool
) -> Image.Image:
    """Brought to the size of the samples: resized until it covers that, and cropped. Without a
    size, masks stay as they are.
    """
    if is_mask and sampling.size is None:
        return picture
    view = View(sampling.size or model.trained_size, flip=False, upscale=True)
    box, flipped = view.box(*picture.size, 0, None, "")
    return (view.mask if is_mask else view.image)(picture, box, flipped)


def files_of(path: str, endings: tuple[str, ...] = EXTENSIONS) -> list[tuple[str, Path]]:
    """A file, or every picture under a folder, with the name that its results get."""
    if Path(path).is_file():
        return [(Path(path).stem, Path(path))]
    if not Path(path).is_dir():
        raise UserError(f"folder '{path}' does not exist")
    return named(find_pictures(Path(path), path, endings), Path(path))


def named(paths: Sequence[Path], folder: Path) -> list[tuple[str, Path]]:
    """Paths in `folder` without their endings; where two would be one, with them."""
    stems = [p.relative_to(folder).with_suffix("").as_posix() for p in paths]
    counts = Counter(stems)
    return [
        (stem if counts[stem] == 1 else p.relative_to(folder).as_posix(), p)
        for stem, p in zip(stems, paths)
    ]
