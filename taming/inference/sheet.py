"""The contact sheet of a folder of samples."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from taming import images
from taming.data.transforms import to_tensor
from taming.inference.job import Job
from taming.second_stage.model import SecondStage

SHEET_ROWS = 24


def write_sheet(model: SecondStage, jobs: list[Job], out: Path) -> Path:
    columns: dict[str, list[Tensor]] = {}
    for job in jobs:
        name = job.path.as_posix().rsplit("-", 1)[0]
        if name not in columns and len(columns) == SHEET_ROWS:
            break
        if name not in columns:
            shown = model.conditioner.picture(job.batch)
            columns[name] = [] if shown is None else [shown[0].cpu()]
        columns[name].append(to_tensor(Image.open(job.path).convert("RGB")))
    rows = list(columns.values())
    if len(rows) == 1:
        picture = images.contact_sheet(
            torch.stack([_padded(p, rows[0]) for p in rows[0]]), columns=min(8, len(rows[0]))
        )
    else:
        everything = [p for row in rows for p in row]
        picture = images.montage(
            [torch.stack([_padded(p, everything) for p in column]) for column in zip(*rows)]
        )
    images.save(picture, out / "sheet.png")
    return out / "sheet.png"


def _padded(picture: Tensor, others: list[Tensor]) -> Tensor:
    """White below and beside, to the size of the largest."""
    height, width = (max(p.shape[axis] for p in others) for axis in (-2, -1))
    return torch.nn.functional.pad(
        picture, (0, width - picture.shape[-1], 0, height - picture.shape[-2]), value=1.0
    )
