"""The codes of a folder of pictures, in one file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from taming.data.folder import find_pictures
from taming.errors import UserError
from taming.files import check_output, write_atomically
from taming.first_stage.interface import FirstStage, pad_to_multiple
from taming.formats.load import find_checkpoint
from taming.inference.conditions import named
from taming.inference.models import first_stage_of, read_input


def encode_folder(
    checkpoint: str | Path,
    folder: str | Path,
    out: str | Path,
    config: str | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Writes the codes of each picture under a folder, padded to what the strides divide, into one
    file: NAME, int32 (h, w); with several levels NAME/0, NAME/1, ...

    Args:
        checkpoint: of either stage: whatever `taming.load` takes.
        folder: of pictures; for a mask tokenizer of label maps.
        out: the .npz file.
        config: the YAML that came with a published checkpoint.
        allow: packages of one's own that the checkpoint may name.

    Returns:
        A line with the number of pictures and the range of codes.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise UserError(f"picture folder '{folder}' does not exist")
    check_output(out, (find_checkpoint(checkpoint), folder), (".npz",))
    pictures = named(find_pictures(folder, folder), folder)
    model = first_stage_of(checkpoint, config, allow)
    if not isinstance(model, FirstStage):
        raise UserError(f"'{checkpoint}' is a {type(model).__name__}, which has no codes")
    codes = {}
    for name, path in pictures:
        levels = model.encode(pad_to_multiple(read_input(model, path), model.multiple))
        for i, level in enumerate(levels):
            key = name if len(levels) == 1 else f"{name}/{i}"
            codes[key] = level[0].to(torch.int32).numpy()

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez_compressed(stream, **codes)

    write_atomically(out, write)
    count, highest = len(pictures), ", ".join(str(n - 1) for n in model.num_codes)
    return f"codes of {count} picture{'s' * (count > 1)} in '{out}', from 0 to {highest}"
