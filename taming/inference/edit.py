"""A picture of which a region was drawn anew, with all that it takes to do so once more."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.data.reading import to_tensor
from taming.errors import UserError
from taming.inference.draw import Known
from taming.inference.paste import paste
from taming.inference.style import ColourStyle


@dataclass(frozen=True)
class Edit:
    """What was there, and which part of it is drawn anew.

    Args:
        image: RGB.
        region: mode L, above 0 where it is drawn anew; of the same size.
        seam: see `paste`.
    """

    image: Image.Image
    region: Image.Image
    seam: int = 0

    def __post_init__(self) -> None:
        if self.image.size != self.region.size:
            raise UserError(
                f"the picture to change is {self.image.width}x{self.image.height}, but its region"
                f" {self.region.width}x{self.region.height}; make them equal"
            )

    @property
    def known(self) -> Known:
        """The picture (1, 3, H, W) and what of it stays (1, H, W)."""
        stays = torch.from_numpy(np.array(self.region.convert("L")))[None] == 0
        return to_tensor(self.image)[None], stays

    def paste(self, pictures: Tensor) -> Tensor:
        image, stays = self.known
        return paste(pictures, image.to(pictures), stays.to(pictures.device), self.seam)

    def strip(self, top: int, end: int) -> "Edit":
        """Rows `top` to `end` of it."""
        box = (0, top, self.image.width, end)
        return Edit(self.image.crop(box), self.region.crop(box), self.seam)

    def plain(self) -> dict[str, Any]:
        return {
            "image": _packed(self.image),
            "region": _packed(self.region.convert("L").point([0] + [255] * 255)),
            "seam": self.seam,
        }

    @classmethod
    def from_plain(cls, plain: Any) -> "Edit":
        """Raises UserError for what `plain` does not write."""
        try:
            image, region = _unpacked(plain["image"]), _unpacked(plain["region"])
            seam = plain["seam"]
        except (KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
            raise UserError(f"the picture that was changed is damaged ({error})") from None
        return cls(image.convert("RGB"), region.convert("L"), seam)


def finish(pictures: Tensor, edit: Edit | None, style: ColourStyle | None) -> Tensor:
    """What is done to drawn pictures: a style's colours, then what stays of another picture."""
    if style is not None:
        pictures = style.apply(pictures)
    return pictures if edit is None else edit.paste(pictures)


def _packed(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _unpacked(text: str) -> Image.Image:
    content = base64.b64decode(text, validate=True)
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        picture.load()
        return picture.copy()
