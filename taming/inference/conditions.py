"""Conditions from files: masks, pictures, depth maps, classes, and the part of a picture to keep."""

import base64
import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.data.depth import read_depth, spread
from taming.data.folder import found
from taming.data.transforms import (
    EXTENSIONS,
    View,
    mask_to_tensor,
    read_image,
    read_mask,
    to_tensor,
)
from taming.errors import UserError
from taming.files import file_hash
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling


def read_known(names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """A picture (1, 3, H, W) and which of its pixels stay (1, H, W): a mask file, where not black;
    or top, left, top:0.3, ...
    """
    picture, mask = names
    image = to_tensor(read_image(Path(picture)))[None]
    height, width = image.shape[-2:]
    side, _, share = mask.partition(":")
    if side in ("top", "left"):
        try:
            part = float(share or 0.5)
        except ValueError:
            part = math.nan
        if not 0 <= part <= 1:
            raise UserError(f"--known-mask {mask}: '{share}' is not a share such as 0.5")
        kept = torch.zeros(1, height, width, dtype=torch.bool)
        if side == "top":
            kept[:, : round(part * height)] = True
        else:
            kept[:, :, : round(part * width)] = True
        return image, kept
    kept = torch.from_numpy(np.array(read_image(Path(mask)).convert("L")))[None] > 0
    if kept.shape[1:] != image.shape[-2:]:
        raise UserError(
            f"--known-mask '{mask}' is {kept.shape[2]}x{kept.shape[1]}, but --known '{picture}' is"
            f" {width}x{height}; make them equal"
        )
    return image, kept


def conditions_of(
    model: SecondStage, out: Path, settings: Sampling, masks, pictures, classes
) -> list[tuple[str, dict]]:
    """(name, what a PNG keeps of it) for everything that pictures are asked for."""
    for folder in (masks, pictures):
        if (
            folder
            and Path(folder).is_dir()
            and Path(folder).resolve() in (out.resolve(), *out.resolve().parents)
        ):
            raise UserError(
                f"-o {out} lies in '{folder}', where samples would be taken for conditions next"
                " time; choose another"
            )
    wanted = getattr(model.conditioner, "key", None)
    given = (
        "segmentation"
        if masks
        else "image"
        if pictures
        else "class"
        if classes is not None
        else None
    )
    flags = {
        "segmentation": "--masks DIR",
        "image": "--images DIR",
        "depth": "--images DIR (depth maps)",
        "class": "--classes A,B",
    }
    flags[None] = "no --masks, --images or --classes"
    if given != ("image" if wanted == "depth" else wanted):
        raise UserError(
            f"this prior is conditioned on '{wanted}', so it needs"
            f" {flags.get(wanted, 'conditions given in Python')}; {flags[given]} was given"
        )
    if masks:
        return [
            _mask_condition(
                model, name, read_mask(path, model.conditioner.first_stage.labels), settings
            )
            for name, path in files_of(masks)
        ]
    if pictures:
        endings = (*EXTENSIONS, ".npy") if wanted == "depth" else EXTENSIONS
        return [
            (name, {"image": [str(path), file_hash(path)]})
            for name, path in files_of(pictures, endings)
        ]
    if classes is not None:
        if not classes or len(set(classes)) < len(classes):
            raise UserError(
                f"--classes {','.join(map(str, classes))}: name each class once, for example 0,3;"
                " -n says how many of each"
            )
        for c in classes:
            # Refuses classes that the prior does not know
            model.conditioner({"class": torch.tensor([c])})
        return [(f"class{c}", {"class": c}) for c in classes]
    return [("sample", {})]


def _mask_condition(
    model: SecondStage, name: str, mask: Image.Image, settings: Sampling
) -> tuple[str, dict]:
    """Label maps are brought to the size asked for, by default the trained one, and kept in the PNG."""
    return name, _told_mask(_fitted(mask, _view(model, settings), mask=True))


def _told_mask(mask: Image.Image) -> dict:
    packed = io.BytesIO()
    mask.save(packed, format="PNG", optimize=True)
    return {"segmentation": base64.b64encode(packed.getvalue()).decode()}


def metadata_of(model: SecondStage, item: dict) -> dict:
    """What a PNG keeps of the condition in an item of a data set."""
    key = getattr(model.conditioner, "key", None)
    if key is None:
        return {}
    if key in ("segmentation", "class") and key not in item:
        raise UserError(
            f"this prior is conditioned on '{key}', but the pictures to measure on have none; give"
            " --samples DIR, or --data DIR that has"
        )
    if key == "segmentation":
        return _told_mask(Image.fromarray(item["segmentation"].to(torch.uint8).numpy()))
    if key == "class":
        return {"class": int(item["class"])}
    raise UserError(
        f"this prior is conditioned on '{key}'; draw samples with taming sample, and give their"
        " folder as --samples DIR"
    )


def _picture_batch(model: SecondStage, path: Path, settings: Sampling) -> dict:
    if model.conditioner.key == "depth":
        return {
            "depth": spread(
                torch.from_numpy(
                    np.array(_fitted(read_depth(path), _view(model, settings), mask=False))
                )[None]
            )[None]
        }
    return {"image": to_tensor(_fitted(read_image(path), _view(model, settings), mask=False))[None]}


def batch_of(model: SecondStage, about: dict, settings: Sampling) -> dict:
    """The batch of one that a PNG of ours was drawn from."""
    if "segmentation" in about:
        return {
            "segmentation": mask_to_tensor(
                Image.open(io.BytesIO(base64.b64decode(about["segmentation"])))
            )[None]
        }
    if "image" in about:
        return _picture_batch(model, Path(about["image"][0]), settings)
    return (
        {"class": torch.tensor([about["class"]])} if "class" in about else {"count": torch.ones(1)}
    )


def _view(model: SecondStage, settings: Sampling) -> View:
    return View(settings.size or model.trained_size, flip=False, upscale=True)


def files_of(path: str, endings: tuple[str, ...] = EXTENSIONS) -> list[tuple[str, Path]]:
    """A file, or every picture under a folder, with the name that its results get."""
    if Path(path).is_file():
        return [(Path(path).stem, Path(path))]
    if not Path(path).is_dir():
        raise UserError(f"folder '{path}' does not exist")
    return named(found(Path(path), path, endings), Path(path))


def named(paths: list[Path], folder: Path) -> list[tuple[str, Path]]:
    """Paths in `folder` without their endings; where two would be one, with them."""
    stems = [p.relative_to(folder).with_suffix("").as_posix() for p in paths]
    return [
        (stem if stems.count(stem) == 1 else p.relative_to(folder).as_posix(), p)
        for stem, p in zip(stems, paths)
    ]


def _fitted(picture: Image.Image, view: View, mask: bool) -> Image.Image:
    box, flipped = view.box(*picture.size, 0, None, "")
    return view.mask(picture, box, flipped) if mask else view.image(picture, box, flipped)
