"""An empty layout for a model, with its legend as a picture, as text, and as palettes of paint
programs.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from taming.data.legend import Legend, hexadecimal
from taming.errors import UserError
from taming.files import make_writable, write_atomically
from taming.formats.load import read_checkpoint
from taming.inference.models import legend_for

SIDE = 28  # pixels of a swatch
LARGEST = 16384


def write_template(
    checkpoint: str | Path,
    out: str | Path,
    size: tuple[int, int] | None = None,
    allow: Sequence[str] = (),
) -> list[Path]:
    """Writes layout.png, legend.png, legend.txt, palette.gpl (GIMP, Krita) and palette.aco
    (Photoshop).

    Args:
        checkpoint: a model that reads or makes masks.
        out: the folder, made where it is missing.
        size: height and width of the layout; default: twice what the model was trained on.
        allow: packages whose classes the file may name.

    Returns:
        The files.

    Raises:
        UserError: the model has no labels, or OUT holds other files of these names.
    """
    legend = legend_for(checkpoint, allow)
    card = read_checkpoint(checkpoint, allow=allow).card
    if legend is None:
        raise UserError(
            f"'{checkpoint}' reads no layouts; give a model that was trained with masks"
        )
    rows, columns = size or tuple(2 * side for side in card.size or (128, 128))
    if max(rows, columns) > LARGEST:
        raise UserError(f"size {rows}x{columns}: at most {LARGEST} pixels to a side")
    out = Path(out)
    make_writable(out)
    start = legend.label_colours()[legend.unknown or 0]
    files = {
        "layout.png": lambda path: Image.new("RGB", (columns, rows), start).save(path, "PNG"),
        "legend.png": lambda path: legend_picture(legend).save(path, "PNG"),
        "legend.txt": lambda path: path.write_text(legend_text(legend), encoding="utf-8"),
        "palette.gpl": lambda path: path.write_text(gimp_palette(legend), encoding="utf-8"),
        "palette.aco": lambda path: path.write_bytes(photoshop_swatches(legend)),
    }
    if (out / "layout.png").exists():
        raise UserError(f"'{out / 'layout.png'}' exists; choose another folder with -o")
    for name, write in files.items():
        write_atomically(out / name, write)
    return [out / name for name in files]


def legend_text(legend: Legend) -> str:
    """As `read_legend` reads it."""
    rows = enumerate(zip(legend.names, legend.label_colours()))
    return "".join(f"{label} {name} {hexadecimal(colour)}\n" for label, (name, colour) in rows)


def gimp_palette(legend: Legend) -> str:
    """A .gpl file, which GIMP, Krita and Inkscape read."""
    lines = ["GIMP Palette", "Name: layout", "Columns: 1", "#"]
    for name, (red, green, blue) in zip(legend.names, legend.label_colours()):
        lines.append(f"{red:3d} {green:3d} {blue:3d}\t{name}")
    return "\n".join(lines) + "\n"


def photoshop_swatches(legend: Legend) -> bytes:
    """An .aco file: version 1 without names, then version 2 with them; 16 bits to a number, big end
    first (Adobe Photoshop File Formats Specification, "Color Swatches").
    """
    plain, named = b"", b""
    for name, colour in zip(legend.names, legend.label_colours()):
        entry = struct.pack(">5H", 0, *(257 * part for part in colour), 0)
        text = name.encode("utf-16-be") + b"\0\0"
        plain += entry
        named += entry + struct.pack(">I", len(text) // 2) + text
    count = len(legend.names)
    return struct.pack(">2H", 1, count) + plain + struct.pack(">2H", 2, count) + named


def legend_picture(legend: Legend) -> Image.Image:
    """A swatch for each label, with number, name and colour."""
    font = ImageFont.load_default(14)
    texts = [
        f"{label} {name}  {hexadecimal(colour)}"
        for label, (name, colour) in enumerate(zip(legend.names, legend.label_colours()))
    ]
    width = 3 * SIDE + int(max(font.getlength(text) for text in texts))
    picture = Image.new("RGB", (width, len(texts) * (SIDE + 6) + 6), "white")
    draw = ImageDraw.Draw(picture)
    for row, (text, colour) in enumerate(zip(texts, legend.label_colours())):
        top = 6 + row * (SIDE + 6)
        draw.rectangle((6, top, 6 + 2 * SIDE, top + SIDE), fill=colour, outline="black")
        draw.text((14 + 2 * SIDE, top + 6), text, fill="black", font=font)
    return picture


def palette_picture(mask: Image.Image, legend: Legend) -> Image.Image:
    """A label map, mode L, as a palette picture in the legend's colours; its indices are the
    labels.
    """
    picture = mask.copy()
    picture.putpalette([part for colour in legend.label_colours() for part in colour])
    return picture
