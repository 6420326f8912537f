"""The codes of a folder of pictures, in one file."""

from pathlib import Path

import numpy as np
import torch

from taming.data.folder import found
from taming.data.transforms import mask_to_tensor, read_image, read_mask, to_tensor
from taming.errors import UserError
from taming.files import write_atomically
from taming.first_stage.interface import FirstStage, pad_to_multiple
from taming.formats.load import load
from taming.inference.conditions import named
from taming.second_stage.model import SecondStage


def encode_folder(path: str, folder: str | Path, out: str | Path, yaml: str | None = None) -> str:
    """Writes the codes of each picture under `folder`, padded to what the strides divide, into OUT
    (.npz); returns a line that says so.
    """
    model = load(path, yaml)
    model = model.first_stage if isinstance(model, SecondStage) else model
    if not isinstance(model, FirstStage):
        raise UserError(f"'{path}' is a {type(model).__name__}, which has no codes")
    if not Path(folder).is_dir():
        raise UserError(f"picture folder '{folder}' does not exist")
    codes = {}
    for name, picture in named(found(Path(folder), folder), Path(folder)):
        original = (
            mask_to_tensor(read_mask(picture))
            if model.key == "segmentation"
            else to_tensor(read_image(picture))
        )
        levels = model.encode(pad_to_multiple(original[None], model.multiple))
        codes |= {
            name if len(levels) == 1 else f"{name}/{i}": level[0].to(torch.int32).numpy()
            for i, level in enumerate(levels)
        }

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez_compressed(stream, **codes)

    write_atomically(out, write)
    return (
        f"codes of {len(codes) // len(model.num_codes)} pictures in '{out}', from 0 to"
        f" {', '.join(str(n - 1) for n in model.num_codes)}"
    )
