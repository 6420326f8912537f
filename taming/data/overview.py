"""What a folder of data is, in words, numbers, a contact sheet and histograms."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taming import data, images
from taming.data.card import classes_of
from taming.data.folder import ImageFolder
from taming.data.interface import PictureSet
from taming.data.reading import CorruptImage, image_size
from taming.data.recognise import Recognition, recognise
from taming.errors import UserError
from taming.files import make_writable, write_atomically

HEADERS, ITEMS = 2000, 200  # of a part, looked at; evenly spaced
CELLS, CELL = 24, 128  # on the sheet
BARS = 12  # of a histogram in words
LARGEST_CROP = 256
VIEW = {"size": CELL, "flip": False, "upscale": True}


@dataclass
class Overview:
    """What was seen in a folder.

    Args:
        counts: pictures of each part; a message where a part can't be read.
        sizes: (width, height) of pictures.
        labels: of label maps, the share of pixels of each.
        classes: how many of the pictures looked at are of each class.
        captions: a few of them.
        broken: messages about what can't be read.
        cells: pictures for the sheet, each with its map beside it where it has one.
    """

    recognition: Recognition
    root: Path
    counts: dict[str, int | str] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    labels: Counter = field(default_factory=Counter)
    classes: Counter = field(default_factory=Counter)
    captions: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    cells: list[Tensor] = field(default_factory=list)


def overview_of(folder: str | Path) -> Overview:
    """Looks at headers of up to 2,000 pictures of the first part, and at 200 items of it."""
    recognition = recognise(folder)
    result = Overview(recognition, Path(folder))
    sets = {}
    for part in ("train", "validation"):
        try:
            sets[part] = _built(recognition, folder, part)
            result.counts[part] = len(sets[part])
        except UserError as error:
            result.counts[part] = str(error)
    if not sets:
        raise UserError(
            f"'{folder}' looks like {recognition.title}, but can't be read:"
            f" {result.counts['train']}"
        )
    first = next(iter(sets.values()))
    _look_at_headers(first, result)
    _look_at_items(first, result)
    return result


def _built(recognition: Recognition, folder: str | Path, part: str) -> PictureSet:
    params = getattr(recognition, part)
    return getattr(data, recognition.target)(root=str(folder), view=VIEW, **params)


def _evenly(count: int, most: int) -> Sequence[int]:
    return sorted({i * count // min(count, most) for i in range(min(count, most))})


def _look_at_headers(dataset: PictureSet, result: Overview) -> None:
    if not isinstance(dataset, ImageFolder):
        return
    for index in _evenly(len(dataset), HEADERS):
        try:
            path = dataset.paths[index]
            result.sizes.append(image_size(path) if path.suffix != ".npy" else (0, 0))
        except CorruptImage as error:
            result.broken.append(str(error))
    result.sizes = [size for size in result.sizes if size != (0, 0)]


def _look_at_items(dataset: PictureSet, result: Overview) -> None:
    indices = _evenly(len(dataset), ITEMS)
    for_sheet = set(indices[:: max(1, len(indices) // CELLS)][:CELLS])
    labels, classes = getattr(dataset, "classes", ()), classes_of(dataset)
    for index in indices:
        try:
            item = dataset[(index, None)]
        except CorruptImage as error:
            result.broken.append(str(error))
            continue
        if "segmentation" in item:
            numbers, counts = item["segmentation"].unique(return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist()):
                result.labels[_named(number, labels)] += count
        if "class" in item:
            result.classes[_named(item["class"], classes)] += 1
        if "caption" in item and len(result.captions) < 3:
            result.captions.append(item["caption"])
        if index in for_sheet:
            result.cells.append(_cell(item, len(labels)))


def _named(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)


def _cell(item: dict[str, Any], labels: int) -> Tensor:
    """(3, H, W): the picture, and what lies over it."""
    parts = [item["image"]]
    if "segmentation" in item:
        mask = item["segmentation"][None]
        parts.append(images.colour_labels(mask, max(labels, int(mask.max()) + 1))[0])
    if "depth" in item:
        parts.append(item["depth"].expand(3, -1, -1))
    return torch.cat(parts, dim=2)


def words_of(overview: Overview) -> str:
    """All of it but the pictures."""
    recognition, lines = overview.recognition, []
    lines.append(f"'{overview.root}' is {recognition.title} (taming.data.{recognition.target})")
    for part, count in overview.counts.items():
        words = f"{count:,} pictures" if isinstance(count, int) else count
        words = "1 picture" if count == 1 else words
        lines.append(f"  {part}: {words}")
    if overview.sizes:
        sides = np.array(overview.sizes)
        short = np.sort(sides.min(axis=1))
        lines.append(
            f"  short sides: {short[0]} to {short[-1]} pixels, half of them at least"
            f" {short[len(short) // 2]}"
        )
        lines += _bars("sizes", Counter(f"{w}x{h}" for w, h in overview.sizes))
    lines += _bars("labels, of all pixels", overview.labels)
    lines += _bars("classes", overview.classes)
    lines += [f'  caption: "{caption}"' for caption in overview.captions]
    if overview.broken:
        lines.append(f"  {len(overview.broken)} can't be used; the first: {overview.broken[0]}")
    return "\n".join([*lines, "", configuration_of(overview)])


def _bars(title: str, counter: Counter) -> list[str]:
    total, most = counter.total(), counter.most_common(BARS)
    if not total:
        return []
    lines = [f"  {title} ({len(counter)} different):"]
    width = max(len(name) for name, _ in most)
    for name, count in most:
        bar = "#" * max(1, round(30 * count / most[0][1]))
        lines.append(f"    {name:<{width}} {100 * count / total:5.1f} % {bar}")
    return lines


def crop_of(overview: Overview) -> int:
    """The largest power of two, up to 256, that all pictures are as large as."""
    smallest = min((min(size) for size in overview.sizes), default=LARGEST_CROP)
    return min(LARGEST_CROP, 2 ** int(math.log2(smallest)))


def configuration_of(overview: Overview) -> str:
    """The lines for a YAML, or for the command line."""
    recognition, lines, size = overview.recognition, ["data:"], crop_of(overview)
    for part in ("train", "validation"):
        params = {"root": str(overview.root), **getattr(recognition, part), "view": {"size": size}}
        if part == "validation":
            params["view"] = {"size": size, "flip": False}
        if isinstance(overview.counts.get(part), int):
            node = f"{{target: taming.data.{recognition.target}, params: {_flow(params)}}}"
            lines.append(f"  {part}: {node}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    """As YAML in one line: JSON, its keys without quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    plain = isinstance(value, str) and value.replace("_", "").replace(".", "").isalnum()
    return value if plain and not value[0].isdigit() else json.dumps(value, ensure_ascii=False)


def write_pictures(overview: Overview, out: str | Path) -> list[Path]:
    """sheet.png and histogram.png in the folder OUT. Returns their paths."""
    folder, paths = Path(out), []
    make_writable(folder)
    if overview.cells:
        columns = min(6, len(overview.cells))
        sheet = images.contact_sheet(torch.stack(overview.cells), columns)
        images.save(sheet, folder / "sheet.png")
        paths.append(folder / "sheet.png")
    write_atomically(folder / "histogram.png", lambda file: _draw_histogram(overview, file))
    return [*paths, folder / "histogram.png"]


def _draw_histogram(overview: Overview, file: Path) -> None:
    from matplotlib.figure import Figure

    counters = {"label": overview.labels, "class": overview.classes}
    counters = {name: counter for name, counter in counters.items() if counter}
    panels = len(counters) + bool(overview.sizes)
    figure = Figure(figsize=(5 * max(1, panels), 4), layout="constrained")
    axes = figure.subplots(1, max(1, panels), squeeze=False)[0]
    for axis, (name, counter) in zip(axes, counters.items()):
        most = counter.most_common(20)[::-1]
        axis.barh([word for word, _ in most], [n / counter.total() for _, n in most])
        axis.set_xlabel(f"share of each {name}")
    if overview.sizes:
        axes[-1].hist([min(size) for size in overview.sizes], bins=30)
        axes[-1].set_xlabel("short side, pixels")
    figure.savefig(file, format="png", dpi=100)
