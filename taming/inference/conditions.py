"""Conditions from files: masks, pictures, depth maps, classes, and the part of a picture that
stays.
"""

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.data.depth import normalise_depth, read_depth
from taming.data.folder import find_pictures
from taming.data.layouts import mask_to_tensor, read_mask
from taming.data.reading import EXTENSIONS, read_image, to_tensor
from taming.data.views import View
from taming.errors import UserError
from taming.files import file_hash
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling

FLAGS = {
    "segmentation": "--masks DIR",
    "image": "--images DIR",
    "depth": "--images DIR (depth maps)",
    "class": "--classes A,B",
    None: "no --masks, --images or --classes",
}


def read_known(names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """A picture (1, 3, H, W) and which of its pixels stay (1, H, W): a mask file, where not black;
    or top, left, top:0.3, ...
    """
    picture, mask = map(str, names)
    image = to_tensor(read_image(Path(picture)))[None]
    height, width = image.shape[-2:]
    side, _, text = mask.partition(":")
    if side in ("top", "left"):
        share = _share(text or "0.5", mask)
        stays = torch.zeros(1, height, width, dtype=torch.bool)
        if side == "top":
            stays[:, : round(share * height)] = True
        else:
            stays[:, :, : round(share * width)] = True
        return image, stays
    if not Path(mask).is_file():
        raise UserError(
            f"--known-mask '{mask}' is no file; give a mask, or top, left, top:0.3, ..."
        )
    stays = torch.from_numpy(np.array(read_image(Path(mask)).convert("L")))[None] > 0
    if stays.shape[1:] != image.shape[-2:]:
        raise UserError(
            f"--known-mask '{mask}' is {stays.shape[2]}x{stays.shape[1]}, but --known"
            f" '{picture}' is {width}x{height}; make them equal"
        )
    return image, stays


def _share(text: str, flag: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UserError(f"--known-mask {flag}: '{text}' is not a share such as 0.5")
    return share


def conditions_of(
    model: SecondStage,
    out: Path,
    sampling: Sampling,
    masks: str | None,
    images: str | None,
    classes: Sequence[int] | None,
) -> list[tuple[str, dict[str, Any]]]:
    """(name, what a PNG holds of it) for everything that pictures are asked for."""
    for folder in (masks, images):
        if folder and Path(folder).is_dir() and _lies_in(out, Path(folder)):
            raise UserError(
                f"-o {out} lies in '{folder}', where samples would be taken for conditions next"
                " time; choose another"
            )
    key = model.conditioner.key
    _check_flags(key, masks, images, classes)
    if masks:
        tokenizer = model.conditioner.tokenizer
        labels = None if tokenizer is None else tokenizer.labels
        files = [(name, read_mask(path, labels)) for name, path in files_of(masks)]
        return [(name, _packed(_fitted(mask, model, sampling, True))) for name, mask in files]
    if images:
        endings = (*EXTENSIONS, ".npy") if key == "depth" else EXTENSIONS
        return [
            (name, {"image": [str(path), file_hash(path)]})
            for name, path in files_of(images, endings)
        ]
    if classes is not None:
        return _class_conditions(model, classes)
    return [("sample", {})]


def _lies_in(path: Path, folder: Path) -> bool:
    return folder.resolve() in (path.resolve(), *path.resolve().parents)


def _check_flags(
    key: str | None, masks: str | None, images: str | None, classes: Sequence[int] | None
) -> None:
    flag = None
    if masks:
        flag = "segmentation"
    elif images:
        flag = "image"
    elif classes is not None:
        flag = "class"
    if flag != ("image" if key == "depth" else key):
        trained = f"is conditioned on '{key}'" if key else "has no condition"
        raise UserError(
            f"this prior {trained}, so it needs {FLAGS.get(key, 'conditions given in Python')};"
            f" this command has {FLAGS[flag]}"
        )


def _class_conditions(
    model: SecondStage, classes: Sequence[int]
) -> list[tuple[str, dict[str, Any]]]:
    if not classes or len(set(classes)) < len(classes):
        raise UserError(
            f"--classes {','.join(map(str, classes))}: name each class once, for example 0,3;"
            " -n says how many of each"
        )
    for number in classes:
        if not isinstance(number, int):
            raise UserError(f"classes are numbers such as [0, 3], not {number!r}")
        # Refuses classes that the prior does not know
        model.conditioner({"class": torch.tensor([number])})
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


def metadata_of(model: SecondStage, item: dict) -> dict[str, Any]:
    """What a PNG holds of the condition in an item of a data set."""
    key = model.conditioner.key
    if key is None:
        return {}
    if key in ("segmentation", "class") and key not in item:
        raise UserError(
            f"this prior is conditioned on '{key}', but the pictures to measure on have none; give"
            " --samples DIR, or --data DIR that has"
        )
    if key == "segmentation":
        return _packed(Image.fromarray(item["segmentation"].to(torch.uint8).numpy()))
    if key == "class":
        return {"class": int(item["class"])}
    raise UserError(
        f"this prior is conditioned on '{key}'; draw samples with taming sample, and give their"
        " folder as --samples DIR"
    )


def batch_of(model: SecondStage, condition: dict[str, Any], sampling: Sampling) -> dict[str, Any]:
    """The batch of one for what a PNG holds of its condition."""
    if "segmentation" in condition:
        return {"segmentation": mask_to_tensor(unpacked_mask(condition["segmentation"]))[None]}
    if "image" in condition:
        return _picture_batch(model, Path(condition["image"][0]), sampling)
    if "class" in condition:
        return {"class": torch.tensor([condition["class"]])}
    return {"count": 1}


def _picture_batch(model: SecondStage, path: Path, sampling: Sampling) -> dict[str, Tensor]:
    if model.conditioner.key != "depth":
        return {"image": to_tensor(_fitted(read_image(path), model, sampling, False))[None]}
    depth = np.array(_fitted(read_depth(path), model, sampling, False))
    return {"depth": normalise_depth(torch.from_numpy(depth)[None])[None]}


def _fitted(
    picture: Image.Image, model: SecondStage, sampling: Sampling, is_mask: bool
) -> Image.Image:
    """Brought to the size of the samples: resized until it covers that, and cropped."""
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
