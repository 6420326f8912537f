"""One self-contained HTML page: pictures, curves, figures, configuration, versions. Opens without a
network, and can be read on a phone.
"""

import base64
import html
import io
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from taming import images
from taming.evaluation.metrics import read_metrics
from taming.evaluation.words import label
from taming.files import write_atomically

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #222 }
img { max-width: 100%; image-rendering: pixelated }
h2 { margin-top: 2.2rem }
figcaption { color: #555 }
table { border-collapse: collapse }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd }
.wide { overflow-x: auto }
figure { margin: 1rem 0 }
@media (max-width: 40rem) {
  body { margin: .5rem auto; font-size: 15px }
  td, th { font-size: 13px }
}
.legend span { margin-right: 1rem; white-space: nowrap }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .3rem;
  border: 1px solid #888; vertical-align: -.1em }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: 13px }
"""
HEAD = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "omegaconf")


@dataclass
class Section:
    """A part of the page; what is empty is left out.

    Args:
        title: its heading.
        text: a paragraph.
        pictures: (caption, picture); a picture is (3, H, W) in [-1, 1], or a PNG or JPEG.
        rows: of a table; a row whose first cell is empty is its head.
        folded: (summary, text) that a click unfolds.
        legend: of the layouts in the pictures: (name, colour), 0 to 255 each.
    """

    title: str
    text: str = ""
    pictures: Sequence[tuple[str, Tensor | bytes]] = ()
    rows: Sequence[tuple[str, ...]] = ()
    folded: Sequence[tuple[str, str]] = field(default_factory=list)
    legend: Sequence[tuple[str, Sequence[int]]] = ()


def page(title: str, sections: Sequence[Section]) -> str:
    """The page as text."""
    body = "\n".join(_section(section) for section in sections)
    return (
        f"<!doctype html><html lang='en'><head>{HEAD}<title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>"
    )


def write(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes the page, whole or not at all."""
    return write_page(path, page(title, sections))


def write_page(path: str | Path, text: str) -> Path:
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
    return Path(path)


def run_section(title: str, folder: Path, text: str, curves: Sequence[Sequence[str]]) -> Section:
    """A run folder: its curves (one plot for each list of metric names), last figures, last
    pictures and configuration.
    """
    rows = read_metrics(folder / "metrics.csv")
    last = {name: value for _, name, value in rows if name.startswith("validation/")}
    picture = last_picture(folder)
    pictures: list[tuple[str, Tensor | bytes]] = []
    if picture is not None:
        batch, path = picture
        pictures.append((f"validation pictures at batch {batch}", path.read_bytes()))
    pictures += [(", ".join(names), plot(rows, names)) for names in curves]
    return Section(
        title,
        text,
        pictures,
        [(label(name.removeprefix("validation/")), f"{value:.4g}") for name, value in last.items()],
        configuration(folder),
    )


def last_picture(folder: Path) -> tuple[int, Path] | None:
    """(batch, file) of the last picture that training wrote into a run."""
    pictures = [path for path in (folder / "pictures").glob("*.png") if path.stem.isdecimal()]
    batches = {int(path.stem): path for path in pictures}
    return max(batches.items()) if batches else None


def configuration(folder: Path) -> list[tuple[str, str]]:
    """The config.yaml of a run, folded; nothing where there is none."""
    path = folder / "config.yaml"
    if not path.is_file():
        return []
    return [("configuration", path.read_text(encoding="utf-8", errors="replace"))]


def plot(rows: Sequence[tuple[int, str, float]], names: Sequence[str]) -> bytes:
    """PNG of the named metrics over batches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        points = [(batch, value) for batch, key, value in rows if key == name]
        if points:
            axes.plot(
                *zip(*points), label=name, marker="o" if len(points) < 20 else None, markersize=3
            )
    axes.set_xlabel("batch")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def surroundings(seed: int, seconds: float) -> Section:
    rows = [
        ("seed", str(seed)),
        ("time", f"{seconds / 60:.1f} min"),
        ("python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
    ]
    return Section("Seed and versions", rows=rows + [(name, version(name)) for name in PACKAGES])


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    for caption, picture in section.pictures:
        words = html.escape(caption)
        image = f"<img alt='{words}' src='{_address(picture)}'>"
        parts.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    if section.legend:
        parts.append(f"<p class='legend'>{''.join(map(_swatch, section.legend))}</p>")
    if section.rows:
        rows = "".join(map(_row, section.rows))
        parts.append(f"<div class='wide'><table>{rows}</table></div>")
    for name, text in section.folded:
        summary = f"<summary>{html.escape(name)}</summary>"
        parts.append(f"<details>{summary}<pre>{html.escape(text)}</pre></details>")
    return "\n".join(parts)


def _swatch(entry: tuple[str, Sequence[int]]) -> str:
    name, (red, green, blue) = entry
    colour = f"<i style='background: rgb({red}, {green}, {blue})'></i>"
    return f"<span>{colour}{html.escape(name)}</span> "


def _row(cells: Sequence[str]) -> str:
    name, *values = (html.escape(cell) for cell in cells)
    tag = "td" if name else "th"  # a row without a name is the head
    return f"<tr><th>{name}</th>{''.join(f'<{tag}>{value}</{tag}>' for value in values)}</tr>"


def _address(picture: Tensor | bytes) -> str:
    """The picture itself, as an address."""
    if isinstance(picture, Tensor):
        buffer = io.BytesIO()
        images.to_pil(picture).save(buffer, format="PNG")
        picture = buffer.getvalue()
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
