"""Codes on a disk -> pictures: the way back from `taming encode`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from taming import images
from taming.data.codes import ENDING, Codes, read_about
from taming.errors import UserError
from taming.files import check_output, is_inside, make_writable
from taming.first_stage.interface import Autoencoder, FirstStage
from taming.formats.load import find_checkpoint
from taming.inference.encode import weights_hash
from taming.inference.models import first_stage_of
from taming.inference.share import share_of_process
from taming.second_stage.window import decode_tiled

LARGEST_CODE = 2**31  # of any codebook


def decode(
    checkpoint: str | Path,
    codes: str | Path,
    out: str | Path,
    *,
    share: str | None = None,
    batch_size: int = 16,
    config: str | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Writes a PNG for each picture and view of what `taming encode` wrote.

    Args:
        checkpoint: the first stage that made the codes, or a second stage that has it.
        codes: a folder of codes, or an .npz file.
        out: the folder of pictures; those that are there already are not made again.
        share: "i/n", see `share_of_process`.
        batch_size: pictures that are decoded at once.
        config: the YAML that came with a published checkpoint.
        allow: packages of one's own that the checkpoint may name.

    Returns:
        A line with the number of pictures.

    Raises:
        UserError: codes of another first stage, of other levels, or beyond its codebook.
    """
    codes, out, process = Path(codes), Path(out), share_of_process(share)
    check_output(out, (find_checkpoint(checkpoint), codes))
    model = first_stage_of(checkpoint, config, allow)
    if not isinstance(model, FirstStage):
        raise UserError(f"'{checkpoint}' is a {type(model).__name__}, which has no codes")
    model = model.to(process.device)
    entries = _of_archive(codes) if codes.is_file() else _of_folder(codes, model)
    make_writable(out)
    count, batch = 0, list[tuple[str, tuple[Tensor, ...]]]()
    for number, (name, levels) in enumerate(tqdm(entries, disable=None, file=sys.stderr)):
        if number % process.world != process.rank:
            continue
        count += 1
        if (out / f"{name}.png").is_file():
            continue
        if batch and [level.shape for level in batch[0][1]] != [level.shape for level in levels]:
            _write(model, batch, out)
            batch = []
        batch.append((name, levels))
        if len(batch) == batch_size:
            _write(model, batch, out)
            batch = []
    _write(model, batch, out)
    return f"{count} picture{'s' * (count != 1)} in '{out}'"


@torch.no_grad()
def _write(model: FirstStage, batch: list[tuple[str, tuple[Tensor, ...]]], out: Path) -> None:
    if not batch:
        return
    device = next(model.parameters()).device
    levels = [torch.stack(level).to(device) for level in zip(*(levels for _, levels in batch))]
    pictures = decode_tiled(model, tuple(levels)).cpu()
    for (name, _), picture in zip(batch, pictures):
        images.save(_visible(model, picture), out / f"{name}.png")


def _visible(model: Autoencoder, picture: Tensor) -> Tensor:
    if picture.is_floating_point():
        return picture.clamp(-1, 1)
    return images.colour_labels(picture[None], model.labels or 256)[0]


def _of_folder(folder: Path, model: FirstStage) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Name and codes of each view of each picture; raises UserError before the first."""
    about = read_about(folder)
    if about.num_codes != [*model.num_codes]:
        raise UserError(f"'{folder}' has {about.num_codes} codes, the model {[*model.num_codes]}")
    if about.first_stage != weights_hash(model):
        raise UserError(
            f"'{folder}' holds codes of another first stage ({about.first_stage}, not"
            f" {weights_hash(model)}); give the checkpoint that made them"
        )
    return _items(Codes(str(folder)))


def _items(codes: Codes) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    views = codes.about.views
    for file in codes.about.files:
        for index in codes.about.samples(file):
            for view in range(views or 1):
                item = codes[(index, view)]
                name = f"{index:09d}_{_plain(item['name'])}" + (f"-{view}" if views else "")
                folder = f"{file.removesuffix(ENDING)}/" if len(codes.about.files) > 1 else ""
                yield folder + name, item["codes"]


def _of_archive(path: Path) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Of the .npz that `taming encode` writes: NAME, or NAME/0, NAME/1, ... for levels."""
    # 1. whole numbers in grids, under names that lie in OUT
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise UserError(f"'{path}' is no file of codes ({type(error).__name__})") from None
    if not arrays:
        raise UserError(f"'{path}' holds no codes; taming encode writes such files")
    for key, array in arrays.items():
        if not is_inside(key):
            raise UserError(
                f"'{path}': {key!r:.80} is no name of a picture: it would be written outside of OUT"
            )
        if array.ndim != 2 or not array.size:
            raise UserError(f"'{path}': '{key}' has shape {tuple(array.shape)}, not (h, w)")
        if array.dtype.kind not in "iu" or array.max() > LARGEST_CODE:
            raise UserError(f"'{path}': '{key}' holds {array.dtype} numbers that are no codes")
    # 2. the levels of each picture
    names: dict[str, list[Tensor]] = {}
    for key, array in arrays.items():
        head, _, level = key.rpartition("/")
        names.setdefault(head if head and level.isdecimal() else key, []).append(
            torch.from_numpy(array.astype(np.int64))
        )
    return ((name, tuple(levels)) for name, levels in names.items())


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)[:80]
