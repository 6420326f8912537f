"""Bytes from the page -> pictures and layouts. Nothing is trusted: formats are few, sizes are
looked at before pixels are decoded, and whatever a decoder raises is one line.
"""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from taming.data.layouts import Layout, read_layout
from taming.data.legend import Legend
from taming.errors import UserError, first_line
from taming.images import to_uint8
from taming.studio.limits import UPLOAD_PIXELS

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
LOSSY = ("JPEG", "WEBP")


@contextmanager
def opened(content: bytes, name: str) -> Iterator[Image.Image]:
    """A picture whose pixels are not yet decoded; whatever Pillow raises becomes one line."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            if not 0 < width * height <= UPLOAD_PIXELS:
                raise UserError(
                    f"{name} has {width}x{height} pixels; at most {UPLOAD_PIXELS // 10**6} million"
                    " are read here"
                )
            yield picture
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds
        reason = first_line(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "another kind of file"
        raise UserError(f"{name} is no readable {', '.join(FORMATS)} ({reason:.80})") from None


def read_picture(content: bytes, name: str = "the picture") -> Image.Image:
    """Upright, in RGB; transparency is laid on white. Raises UserError."""
    with opened(content, name) as file:
        file.load()
        picture = ImageOps.exif_transpose(file)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            rgba = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return picture.convert("RGB")


def read_upload(content: bytes, legend: Legend) -> Layout:
    """A layout file, with the reading rules of the command line. Raises UserError."""
    with opened(content, "the layout") as file:
        if file.format == "JPEG":
            raise UserError(
                "the layout is a JPEG, whose compression changes labels; save it as PNG"
            )
        return read_layout(file, legend)


def labels_of(content: bytes, height: int, width: int, count: int) -> np.ndarray:
    """Labels uint8 (H, W) from one byte a pixel. Raises UserError."""
    if len(content) != height * width:
        raise UserError(
            f"the layout has {len(content)} bytes, but {width}x{height} pixels are {height * width}"
        )
    labels = np.frombuffer(content, np.uint8).reshape(height, width)
    if int(labels.max()) >= count:
        raise UserError(f"the layout holds label {labels.max()}, but labels end at {count - 1}")
    return labels


def cover(picture: Image.Image, height: int, width: int, nearest: bool = False) -> Image.Image:
    """Resized until it covers the canvas, and cropped around the middle."""
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return ImageOps.fit(picture, (width, height), method)


def png_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def png_of_tensor(image: Tensor) -> bytes:
    """(3 or 1, H, W) in [-1, 1]; compressed little, because it is looked at once."""
    array = to_uint8(image).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(
        buffer, format="PNG", compress_level=1
    )
    return buffer.getvalue()


def layout_png(labels: np.ndarray, legend: Legend) -> bytes:
    """A palette PNG whose indices are the labels, drawn in their colours."""
    height, width = labels.shape
    indexed = Image.frombytes("P", (width, height), labels.tobytes())
    indexed.putpalette([part for colour in legend.label_colours() for part in colour])
    buffer = io.BytesIO()
    indexed.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def base64_png(picture: Image.Image) -> str:
    return base64.b64encode(png_of(picture)).decode()
