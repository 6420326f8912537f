"""Layouts in the shapes that people have them -> label maps: the one reader of masks.

Numbers (8 or 16 bits, .npy, 0 and 1), palette pictures, and colours that are matched to a legend,
also where a paint program softened their edges. What was read is said.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.data.legend import Legend, hexadecimal
from taming.data.reading import EXTENSIONS, CorruptImage, opened
from taming.data.views import View
from taming.errors import UserError, did_you_mean, first_line
from taming.images import IGNORE

ENDINGS = (*(ending for ending in EXTENSIONS if ending not in (".jpg", ".jpeg")), ".npy")
"""Of files that may be masks."""

Convention = Literal["ade20k", "coco-stuff", "cityscapes"]
"""What published sets mean by the numbers in their masks: ADE20K's scene parsing (0 is no label,
150 classes from 1), COCO-Stuff's maps (182 classes from 0, 255 is no label), Cityscapes' label
numbers (19 of 34 are trained on)."""

STRANGE = 0.02  # of the pixels may have colours that no legend explains
_LOSSY = ("JPEG", "MPO", "JPEG2000")
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow stretches 2 and 4 bits to 0..255
_NEAR = 12.0  # distance in RGB of what counts as the legend's colour
_OVERSHOOT = 16  # by which softened edges may leave the range of their two colours
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_GREATEST = 2**16  # of the numbers in a mask


@dataclass(frozen=True)
class Layout:
    """A label map that was read.

    Args:
        mask: mode L, the labels; IGNORE (255) where nothing is known.
        legend: its labels.
        remarks: what a person should know about the reading.
    """

    mask: Image.Image
    legend: Legend
    remarks: tuple[str, ...] = ()

    def labels(self) -> Tensor:
        """int64 (H, W)."""
        return torch.from_numpy(np.array(self.mask)).long()

    def filled(self) -> "Layout":
        """What is not known becomes the label that says so, where the legend has one."""
        if self.legend.unknown is None:
            return self
        mask = self.mask.point([*range(IGNORE), self.legend.unknown])
        return Layout(mask, self.legend, self.remarks)

    def covering(self, size: tuple[int, int]) -> "Layout":
        """Resized by nearest neighbour until it covers (H, W), and cropped to that."""
        view = View(size, flip=False, upscale=True)
        mask = view.mask(self.mask, *view.box(*self.mask.size, 0, None, "the layout"))
        return Layout(mask, self.legend, self.remarks)

    def shares(self) -> dict[str, float]:
        """Of the pixels, by name, the largest first."""
        counts = np.bincount(np.asarray(self.mask).ravel(), minlength=256)
        names = dict(enumerate(self.legend.names))
        shares: dict[str, float] = {}
        for value in np.flatnonzero(counts):
            name = "no label" if value == IGNORE else names.get(int(value), f"label {value}")
            shares[name] = shares.get(name, 0.0) + counts[value] / counts.sum()
        return dict(sorted(shares.items(), key=lambda entry: -entry[1]))

    def describe(self, name: str) -> str:
        """`lake.png 384x256: sky 34 %, water 35 %`, and the remarks."""
        shares = list(self.shares().items())
        texts = [f"{label} {100 * share:.0f} %" for label, share in shares[:8]]
        more = [f"and {len(shares) - 8} more"] if len(shares) > 8 else []
        size = f"{self.mask.width}x{self.mask.height}"
        return "; ".join([f"{name} {size}: {', '.join([*texts, *more])}", *self.remarks])


def read_layout(
    source: str | Path | BinaryIO | Image.Image | np.ndarray | Tensor,
    legend: Legend | Sequence[str] | int | None = None,
    convention: str | None = None,
    ignore: int | None = IGNORE,
) -> Layout:
    """A label map from a file, a PIL picture or an array.

    Args:
        source: a path, an open file, a PIL picture or an array: numbers (H, W), or colours: RGB,
            RGBA, (H, W, 3) or (H, W, 4). Of palettes the colours count where they are the legend's,
            else the indices.
        legend: the labels' names, with their colours; or how many there are; None: any numbers.
        convention: of a published set: ade20k, coco-stuff, cityscapes.
        ignore: the number that means no label; it reads as IGNORE, as transparent pixels do.

    Raises:
        CorruptImage: no readable mask, lossy compression, labels beyond the legend, more than 2 %
            of the pixels in colours that the legend does not have.
    """
    known = None if legend is None else Legend.of(legend)
    name = f"mask '{source}'" if isinstance(source, str | Path) else "the mask"
    raw = _raw_of(source, name)
    _refuse_empty(raw, name)
    remarks: list[str] = []
    places = _by_colour(raw, known, name, remarks)
    if places is None:
        places = _by_number(raw, known, convention, ignore, name, remarks)
    labels = _labels(places, known)
    if raw.transparent is not None and raw.transparent.any():
        labels = np.where(raw.transparent, IGNORE, labels)
        remarks.append(f"{100 * raw.transparent.mean():.0f} % is transparent, so it has no label")
    mask = Image.fromarray(labels.astype(np.uint8))
    return Layout(mask, known or Legend.of(int(labels.max()) + 1), tuple(remarks))


def read_mask(
    path: str | Path | BinaryIO,
    legend: Legend | Sequence[str] | int | None = None,
    convention: str | None = None,
    ignore: int | None = IGNORE,
) -> Image.Image:
    """The mask of `read_layout`, mode L."""
    return read_layout(path, legend, convention, ignore).mask


def mask_to_tensor(mask: Image.Image) -> Tensor:
    """Labels, a PIL picture of mode L or P -> int64 (H, W)."""
    if not isinstance(mask, Image.Image) or mask.mode not in ("L", "P", "1"):
        kind = f"mode {mask.mode}" if isinstance(mask, Image.Image) else type(mask).__name__
        raise UserError(f"a PIL mask of mode L or P is expected, not {kind}; see read_mask")
    return torch.from_numpy(np.array(mask)).long()


@dataclass(frozen=True)
class MaskHeader:
    """What a mask says before its pixels are read.

    Args:
        size: (width, height).
        remark: on what is possible but unlikely.
    """

    size: tuple[int, int]
    remark: str | None = None


def mask_header(path: str | Path, legend: Legend | Sequence[str] | int | None = None) -> MaskHeader:
    """Raises CorruptImage for a file that can't be a mask."""
    if Path(path).suffix.lower() == ".npy":
        with _refusing_arrays(path):
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        if len(shape) < 2:
            raise CorruptImage(f"mask '{path}' has shape {shape}; labels (H, W) are expected")
        height, width = _picture_shape(shape)
        return MaskHeader((width, height))
    with opened(path, "mask") as file:
        _refuse_lossy(file, f"mask '{path}'")
        if file.mode in ("RGB", "RGBA", "CMYK", "PA"):
            return MaskHeader(file.size, "with a mask in colours: the classes' colours are meant")
        if file.mode != "P" or file.palette is None or file.palette.rawmode != "RGB":
            return MaskHeader(file.size)
        table = np.frombuffer(bytes(file.palette.palette), np.uint8)
    table = table[: len(table) // 3 * 3].reshape(-1, 3)
    expected = Legend.of(256 if legend is None else legend).table()
    shared = min(len(table), len(expected))
    as_expected = (table[:shared] == expected[:shared]).all()
    if as_expected or (table == np.arange(len(table))[:, None]).all():
        return MaskHeader(file.size)
    return MaskHeader(file.size, "with a mask that has a palette of its own")


# What files hold


@dataclass(frozen=True)
class _Raw:
    """A mask as it is stored.

    Args:
        numbers: int (H, W), of a greyscale file or the indices of a palette.
        colours: uint8 (H, W, 3), where there are some.
        transparent: bool (H, W), where there is a fourth channel.
    """

    numbers: np.ndarray | None = None
    colours: np.ndarray | None = None
    transparent: np.ndarray | None = None


def _raw_of(source: Any, name: str) -> _Raw:
    if isinstance(source, str | Path) or hasattr(source, "read"):
        if isinstance(source, str | Path) and Path(source).suffix.lower() == ".npy":
            with _refusing_arrays(source):
                array = np.load(source, allow_pickle=False)
            return _of_array(array, name)
        with opened(source, "mask") as file:
            _refuse_lossy(file, name)
            return _of_picture(file, name)
    if isinstance(source, Image.Image):
        _refuse_lossy(source, name)
        return _of_picture(source, name)
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray | list):
        return _of_array(np.asarray(source), name)
    raise UserError(
        f"a mask is a path, a PIL picture, an array or a tensor, not a {type(source).__name__}"
    )


def _of_picture(file: Image.Image, name: str) -> _Raw:
    """Of any of Pillow's modes."""
    tile = file.tile[0][3] if getattr(file, "tile", None) else None  # type: ignore[attr-defined]
    step = _GREY_STEPS.get(tile if isinstance(tile, str) else "", 1)
    file.load()
    if file.mode == "P" and "transparency" not in file.info:
        return _of_palette(file)
    if file.mode in ("1", "L"):
        return _Raw(np.asarray(file).astype(np.int64) // step)
    if file.mode == "LA":
        grey, alpha = (np.asarray(band) for band in file.split())
        return _Raw(grey.astype(np.int64), transparent=alpha < 128)
    if file.mode == "F" or file.mode.startswith("I"):
        return _of_array(np.asarray(file), name)
    pixels = np.asarray(file.convert("RGBA"))
    return _Raw(None, pixels[..., :3], pixels[..., 3] < 128)


def _of_palette(file: Image.Image) -> _Raw:
    """Indices and their colours; a ramp of greys is none."""
    numbers = np.asarray(file)
    highest = int(numbers.max(initial=0))
    flat = (file.getpalette("RGB") or [])[: 3 * highest + 3]
    flat += [0] * (3 * highest + 3 - len(flat))
    table = np.array(flat, dtype=np.uint8).reshape(-1, 3)
    ramp = np.arange(len(table))[:, None]
    colours = None if (table == ramp).all() else table[numbers]
    return _Raw(numbers.astype(np.int64), colours)


def _of_array(array: np.ndarray, name: str) -> _Raw:
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise CorruptImage(f"{name} holds {array.dtype}, not numbers")
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.dtype == np.uint8:
        alpha = array[..., 3] < 128 if array.shape[-1] == 4 else None
        return _Raw(None, array[..., :3], alpha)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array.reshape(_picture_shape(array.shape))
    if array.ndim != 2:
        raise CorruptImage(
            f"{name} has shape {array.shape} and type {array.dtype}; labels (H, W), or 8-bit"
            " colours (H, W, 3), are expected"
        )
    if array.size and array.dtype.kind == "f" and not (array == np.rint(array)).all():
        raise CorruptImage(f"{name} holds fractions; labels are whole numbers")
    if array.size and not (array.min() >= 0 and array.max() < _GREATEST):
        raise CorruptImage(
            f"{name} holds numbers from {array.min()} to {array.max()}; labels go from 0 to 254"
        )
    return _Raw(array.astype(np.int64))


def _picture_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of (H, W), (1, H, W), (H, W, 1) and (H, W, 3)."""
    return (shape[1], shape[2]) if len(shape) == 3 and shape[0] == 1 else (shape[0], shape[1])


@contextmanager
def _refusing_arrays(path: str | Path) -> Iterator[None]:
    """Whatever numpy raises becomes one line."""
    try:
        yield
    except FileNotFoundError:
        raise CorruptImage(f"mask '{path}' does not exist") from None
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        raise CorruptImage(f"mask '{path}' is no readable array ({first_line(error)})") from None


def _refuse_lossy(file: Image.Image, name: str) -> None:
    if file.format in _LOSSY:
        raise CorruptImage(
            f"{name} is a {file.format}, whose compression changes labels; save masks as PNG"
        )


def _refuse_empty(raw: _Raw, name: str) -> None:
    values = raw.numbers if raw.numbers is not None else raw.colours
    if values is None or not values.size:
        raise CorruptImage(f"{name} has no pixels")


# Numbers


def _by_number(
    raw: _Raw,
    legend: Legend | None,
    convention: str | None,
    ignore: int | None,
    name: str,
    remarks: list[str],
) -> np.ndarray:
    """Entries of the legend (H, W), IGNORE where there is no label."""
    numbers = raw.numbers
    assert numbers is not None
    count = _GREATEST if legend is None else len(legend.labels)
    if count == 2 and set(np.unique(numbers)) == {0, 255}:
        return numbers // 255  # black and white, of two labels
    if convention:
        numbers = _converted(numbers, convention)
    if ignore is not None and ignore != IGNORE:
        numbers = np.where(numbers == ignore, IGNORE, numbers)
    is_label = numbers != IGNORE if ignore is not None and count <= IGNORE else numbers >= 0
    highest = int(numbers[is_label].max(initial=0))
    if highest >= count:
        raise CorruptImage(
            f"{name} holds label {highest}, but the class list ends at {count - 1};"
            f" {_cure(numbers, is_label, count)}"
        )
    if highest > IGNORE:
        raise CorruptImage(f"{name} holds label {highest}; masks have 8 bits, up to 255")
    return numbers


def _cure(numbers: np.ndarray, is_label: np.ndarray, count: int) -> str:
    values = numbers[is_label]
    if values.min() == 1 and values.max() == count:
        return "where 0 is no label and classes count from 1, say so: the convention ade20k"
    return "add the class, or mend the mask"


def _converted(numbers: np.ndarray, convention: str) -> np.ndarray:
    """The numbers of a published set as labels."""
    if convention not in get_args(Convention):
        names = get_args(Convention)
        raise UserError(f"convention '{convention}' is unknown{did_you_mean(convention, names)}")
    if convention == "ade20k":
        return np.where(numbers == 0, IGNORE, numbers - 1)
    if convention == "coco-stuff":
        return numbers
    table = np.full(_GREATEST, IGNORE)
    table[list(_CITYSCAPES)] = range(len(_CITYSCAPES))
    return table[numbers]


def _labels(places: np.ndarray, legend: Legend | None) -> np.ndarray:
    """Labels of a legend's entries."""
    if legend is None or legend.labels == tuple(range(len(legend.labels))):
        return places
    table = np.full(max(IGNORE, len(legend.labels)) + 1, IGNORE)
    table[: len(legend.labels)] = legend.labels
    return table[places]


# Colours


@dataclass(frozen=True)
class _Match:
    """How colours fit a legend.

    Args:
        places: int (H, W), the entry of each pixel; the nearest where it is strange.
        strange: bool (H, W), what is no colour of the legend and no blend of neighbours.
    """

    places: np.ndarray
    strange: np.ndarray


def _by_colour(
    raw: _Raw, legend: Legend | None, name: str, remarks: list[str]
) -> np.ndarray | None:
    """Entries of the legend (H, W); None where the numbers count."""
    if raw.colours is None:
        return None
    if legend is None:
        if raw.numbers is None:
            raise CorruptImage(
                f"{name} has colours; reading them needs a legend: names and colours of the labels,"
                " or the model that will draw it"
            )
        return None
    counts = np.ones(raw.colours.shape[:2], bool) if raw.transparent is None else ~raw.transparent
    match = _matched(raw.colours, legend)
    share = float((match.strange & counts).sum() / max(1, counts.sum()))
    grey = raw.numbers is None and bool((raw.colours == raw.colours[..., :1]).all())
    if share > STRANGE:
        return _numbers_instead(raw, match, legend, counts, grey, name, remarks)
    if share:
        remarks.append(f"{100 * share:.1f} % in other colours went to the nearest label")
    if raw.numbers is not None and (match.places != raw.numbers).any():
        remarks.append("its palette is the legend's in another order: colours count, not indices")
    return match.places


def _numbers_instead(
    raw: _Raw,
    match: _Match,
    legend: Legend,
    counts: np.ndarray,
    grey: bool,
    name: str,
    remarks: list[str],
) -> np.ndarray | None:
    """None where numbers are meant: a foreign palette, or labels in all three channels. Raises
    CorruptImage where it is unclear.
    """
    share = float(match.strange[counts].mean())
    if raw.numbers is not None and share > 0.5:
        remarks.append("its palette is not the legend's: indices count, not colours")
        return None
    if grey and raw.colours is not None:
        values = raw.colours[..., 0].astype(np.int64)
        # Black and white alone are a drawing
        if 0 < values[(values != IGNORE) & counts].max(initial=0) < len(legend.labels):
            remarks.append("grey: its values are labels")
            return values
    raise CorruptImage(_strange(raw, match, legend, counts, name))


def _matched(colours: np.ndarray, legend: Legend) -> _Match:
    """Each pixel's entry: the colour's own, else the nearest of those that it is a blend of."""
    packed = colours.astype(np.int64) @ [65536, 256, 1]
    unique, inverse = np.unique(packed, return_inverse=True)
    table = legend.table()
    each = np.stack([unique >> 16, unique >> 8 & 255, unique & 255], axis=-1)
    nearest, distance = _nearest(each, table)
    inverse = inverse.reshape(packed.shape)
    places, strange = nearest[inverse], (distance > _NEAR)[inverse]
    for _ in range(3):  # softened edges are a few pixels wide
        if not strange.any():
            break
        resolved = _edges(colours, places, strange, table)
        if not resolved:
            break
    return _Match(places, strange)


def _nearest(colours: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entry nearest to each colour (N, 3), and its distance."""
    places = np.zeros(len(colours), np.int64)
    least = np.full(len(colours), np.inf)
    for place, entry in enumerate(table):
        distance = np.sqrt(((colours - entry) ** 2).sum(axis=-1))
        places = np.where(distance < least, place, places)
        least = np.minimum(least, distance)
    return places, least


def _edges(colours: np.ndarray, places: np.ndarray, strange: np.ndarray, table: np.ndarray) -> int:
    """Strange pixels whose colour lies between those of settled neighbours get the nearest of
    theirs, in place. Returns how many.
    """
    rows, columns = np.nonzero(strange)
    settled = np.where(strange, -1, places)
    padded = np.pad(settled, 2, constant_values=-1)
    pixel = colours[rows, columns].astype(np.int64)
    low, high = np.full(pixel.shape, 999), np.full(pixel.shape, -999)
    least, best = np.full(len(rows), np.inf), np.full(len(rows), -1)
    for down in range(5):
        for across in range(5):
            neighbour = padded[rows + down, columns + across]
            entry = table[neighbour.clip(0)]
            there = neighbour >= 0
            low = np.where(there[:, None], np.minimum(low, entry), low)
            high = np.where(there[:, None], np.maximum(high, entry), high)
            distance = np.where(there, ((pixel - entry) ** 2).sum(axis=-1), np.inf)
            best = np.where(distance < least, neighbour, best)
            least = np.minimum(least, distance)
    inside = (pixel >= low - _OVERSHOOT).all(axis=-1) & (pixel <= high + _OVERSHOOT).all(axis=-1)
    places[rows[inside], columns[inside]] = best[inside]
    strange[rows[inside], columns[inside]] = False
    return int(inside.sum())


def _strange(raw: _Raw, match: _Match, legend: Legend, counts: np.ndarray, name: str) -> str:
    """The refusal: which colours, how much of each, and what would be nearest."""
    assert raw.colours is not None
    where = match.strange & counts
    colours, index, numbers = np.unique(
        raw.colours[where], axis=0, return_index=True, return_counts=True
    )
    texts = []
    for one in np.argsort(-numbers)[:5]:
        label = legend.labels[int(match.places[where][index[one]])]
        percent = 100 * numbers[one] / counts.sum()
        colour = hexadecimal([*map(int, colours[one])])
        texts.append(f"{colour} {percent:.0f} % (nearest: {legend.names[label]})")
    more = f" and {len(colours) - 5} more" if len(colours) > 5 else ""
    photograph = "; is it a photograph?" if len(colours) > 1000 else ""
    return (
        f"{name}: {100 * where.sum() / counts.sum():.0f} % of it is in colours that the legend does"
        f" not have: {', '.join(texts)}{more}{photograph}; draw it in the legend's colours, or give"
        " another legend (--legend FILE)"
    )
