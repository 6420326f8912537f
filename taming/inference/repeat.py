"""A picture once more, from what its PNG holds."""

from collections.abc import Sequence
from pathlib import Path

import torch

from taming import images
from taming.errors import UserError
from taming.files import file_hash, make_writable
from taming.inference.conditions import legend_of
from taming.inference.draw import draw_batch, joined
from taming.inference.edit import Edit, finish
from taming.inference.entries import record_keys
from taming.inference.job import Job
from taming.inference.known import KnownPart, read_known
from taming.inference.memory import check_memory
from taming.inference.models import second_stage_of
from taming.inference.paste import pasted
from taming.inference.record import Record, read_record
from taming.inference.share import using_threads
from taming.inference.style import ColourStyle
from taming.second_stage.model import SecondStage


def sample_again(
    png: str | Path, out: str | Path, overwrite: bool = False, allow: Sequence[str] = ()
) -> Path:
    """Draws the picture in a PNG of ours once more, to the bit on the same machine and versions.

    Returns:
        The new picture's path.

    Raises:
        UserError: the PNG does not say how it was drawn, or a file that it was drawn with changed.
    """
    # 1. what the PNG says, and whether that is still there
    record = read_record(png)
    if record is None:
        raise UserError(
            f"'{png}' does not say how it was drawn; only PNGs that taming sample wrote do"
        )
    path = Path(out) / f"{Path(png).stem}.png"
    inputs = {Path(name).resolve() for name, _ in [*record.files(), (str(png), "")]}
    is_ours = path.is_file() and read_record(path) is not None
    if path.is_file() and (not overwrite or not is_ours or path.resolve() in inputs):
        raise UserError(f"'{path}' exists; choose another folder with -o")
    _check_surroundings(record, png)

    # 2. the same batch, of which one row is the picture
    config = record.config[0] if record.config else None
    model = second_stage_of(record.checkpoint_file(), config, allow).to(record.device)
    _check_condition(record, model, png)
    part = _known_part(record, model)
    edit = Edit.from_plain(record.edit) if record.edit else None
    style = ColourStyle.from_plain(record.style) if record.style else None
    jobs = [Job(record.number, path, record.condition)] * record.batch
    check_memory(model, {}, record.sampling, record.batch, known=part is not None)
    with using_threads(record.threads):
        batch = joined(model, jobs, record.sampling)
        known = part.tensors(batch, len(jobs)) if part else edit and edit.known
        pictures = draw_batch(model, jobs, batch, record.sampling, known).cpu()
        if part and record.seam is not None:
            pictures = pasted(pictures, part, batch, record.seam)
        picture = finish(pictures, edit, style)[record.row]

    # 3. the file
    make_writable(Path(out))
    images.save(picture, path, record.metadata())
    return path


def _known_part(record: Record, model: SecondStage) -> KnownPart | None:
    if record.known is None:
        return None
    return read_known((record.known[0][0], record.known[1][0]), legend_of(model))


def _check_condition(record: Record, model: SecondStage, png: str | Path) -> None:
    keys = model.conditioner.keys
    allowed = record_keys(model.conditioner)
    if not record.condition.keys() <= allowed or (allowed and not record.condition):
        held = " and ".join(record.condition) or "no condition"
        words = " and ".join(map(repr, keys)) or "nothing"
        raise UserError(f"'{png}' holds {held}, but its prior is conditioned on {words}")


def _check_surroundings(record: Record, png: str | Path) -> None:
    for name, expected in record.files():
        if not Path(name).is_file() or file_hash(Path(name)) != expected:
            raise UserError(
                f"'{name}' is not the file any more that '{png}' was drawn with (its hash was"
                f" {expected})"
            )
    if record.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"'{png}' was drawn on a GPU, and torch sees none here")
