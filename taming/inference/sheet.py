"""The contact sheet of a folder of samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from taming import images
from taming.data.reading import to_tensor
from taming.inference.conditions import batch_of
from taming.inference.job import Job
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling

CONDITIONS = 24  # on a sheet, at most


def write_sheet(model: SecondStage, jobs: Sequence[Job], sampling: Sampling, out: Path) -> Path:
    """A row for each condition: its picture, then its samples; without conditions, rows of eight.
    Returns the path, OUT/sheet.png.
    """
    groups: dict[str, list[Tensor]] = {}
    for job in jobs:
        name = job.path.as_posix().rsplit("-", 1)[0]
        if name not in groups and len(groups) == CONDITIONS:
            break
        if name not in groups:
            condition = model.conditioner.picture(batch_of(model, job.condition, sampling))
            groups[name] = [] if condition is None else [condition[0].cpu()]
        groups[name].append(to_tensor(Image.open(job.path).convert("RGB")))
    rows = list(groups.values())
    size = _largest([picture for row in rows for picture in row])
    if len(rows) == 1:
        sheet = images.contact_sheet(_stacked(rows[0], size), columns=min(8, len(rows[0])))
    else:
        sheet = images.montage([_stacked(column, size) for column in zip(*rows)])
    images.save(sheet, out / "sheet.png")
    return out / "sheet.png"


def _largest(pictures: Sequence[Tensor]) -> tuple[int, int]:
    return max(p.shape[-2] for p in pictures), max(p.shape[-1] for p in pictures)


def _stacked(pictures: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """White below and beside, where a picture is smaller than `size`."""
    height, width = size
    padded = [
        torch.nn.functional.pad(p, (0, width - p.shape[-1], 0, height - p.shape[-2]), value=1.0)
        for p in pictures
    ]
    return torch.stack(padded)
