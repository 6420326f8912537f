"""The codes of a picture: which stands where, what it decodes to, what becomes of the picture where
it is swapped.
"""

import torch
from torch import Tensor

from taming.data.reading import to_tensor
from taming.errors import UserError
from taming.first_stage.interface import Codes, FirstStage
from taming.images import colour_labels
from taming.studio.limits import INSPECTED_SIDE
from taming.studio.model import StudioModel
from taming.studio.protocol import Frame
from taming.studio.requests import Fields, labels_of
from taming.studio.uploads import png_of_tensor, read_picture
from taming.studio.worker import Task

AROUND = 5  # a code is shown amid so many of its like, each way


class Inspector:
    """Looks into one model's first stage. Its methods run in the worker.

    Args:
        model: whose.
    """

    def __init__(self, model: StudioModel):
        self.model, self.first = model, model.first

    def encode(self, task: Task, frame: Frame) -> None:
        """A picture, or a layout for a tokenizer of layouts -> its codes and what they decode to;
        of a first stage without codes, only that.
        """
        image = self._read(frame)
        with torch.no_grad():
            if not isinstance(self.first, FirstStage):
                picture = self.first.reconstruct(image)
                return task.answer("codes", {"png": self._png(picture)}, levels=[])
            codes = self.first.encode(image)
            picture = self.first.decode(codes)
        levels = [
            {"rows": level.shape[1], "columns": level.shape[2], "codes": level.flatten().tolist()}
            for level in codes
        ]
        height, width = picture.shape[-2:]
        task.answer("codes", {"png": self._png(picture)}, levels=levels, height=height, width=width)

    def decode(self, task: Task, frame: Frame) -> None:
        """Codes -> their picture."""
        fields = Fields(frame)
        codes = self._codes_of(fields.values("levels"))
        fields.finish()
        with torch.no_grad():
            task.answer("decoded", {"png": self._png(self._first_stage().decode(codes))})

    def code(self, task: Task, frame: Frame) -> None:
        """One code of a level without several grids -> the patch that it decodes to among its
        like.
        """
        first = self._first_stage()
        fields = Fields(frame)
        number = fields.whole("code", 0, first.num_codes[0] - 1)
        fields.finish()
        if len(first.num_codes) > 1:
            raise UserError("a code of a hierarchy has no picture by itself; swap it in a picture")
        codes = torch.full((1, AROUND, AROUND), number, device=self.model.device)
        with torch.no_grad():
            picture = first.decode((codes,))
        stride, middle = first.stride, AROUND // 2
        inside = slice(middle * stride, (middle + 1) * stride)
        task.answer("code", {"png": self._png(picture[..., inside, inside])}, code=number)

    def _first_stage(self) -> FirstStage:
        if not isinstance(self.first, FirstStage):
            raise UserError("this first stage has no codes")
        return self.first

    def _read(self, frame: Frame) -> Tensor:
        fields, multiple = Fields(frame), self.first.multiple
        if self.first.key == "segmentation":
            height, width = fields.whole("height", 1, 4096), fields.whole("width", 1, 4096)
            self.model.check_size(height, width)
            labels = labels_of(fields.blob("layout"), height, width, self.first.labels or 256)
            image = torch.from_numpy(labels.copy()).long()
        else:
            picture = read_picture(fields.blob("picture"))
            picture.thumbnail((INSPECTED_SIDE, INSPECTED_SIDE))
            image = to_tensor(picture)
        fields.finish()
        height, width = (side // multiple * multiple for side in image.shape[-2:])
        if not height or not width:
            raise UserError(f"the picture is too small: sides should be at least {multiple} pixels")
        return image[None, ..., :height, :width].to(self.model.device)

    def _codes_of(self, levels: object) -> Codes:
        """Raises UserError for what are no codes of this first stage."""
        first = self._first_stage()
        if not isinstance(levels, list) or len(levels) != len(first.num_codes):
            raise UserError(f"levels should be a list of {len(first.num_codes)}")
        codes = []
        for level, count in zip(levels, first.num_codes):
            if not isinstance(level, dict):
                raise UserError("a level should be an object with rows, columns and codes")
            rows, columns, numbers = _grid_of(level)
            if not all(type(number) is int and 0 <= number < count for number in numbers):
                raise UserError(f"codes should be whole numbers from 0 to {count - 1}")
            codes.append(torch.tensor(numbers, device=self.model.device).view(1, rows, columns))
        return tuple(codes)

    def _png(self, picture: Tensor) -> bytes:
        if self.first.key == "segmentation":
            picture = colour_labels(picture.argmax(dim=1), self.first.labels or 2)
        return png_of_tensor(picture[0].clamp(-1, 1))


def _grid_of(level: dict) -> tuple[int, int, list]:
    """Rows, columns, and as many codes. Raises UserError for anything else."""
    rows, columns, numbers = (level.get(key) for key in ("rows", "columns", "codes"))
    if type(rows) is int and type(columns) is int and isinstance(numbers, list):
        sides_fit = all(1 <= side <= INSPECTED_SIDE for side in (rows, columns))
        if sides_fit and len(numbers) == rows * columns:
            return rows, columns, numbers
    raise UserError("a level's codes should be as many numbers as rows times columns")
