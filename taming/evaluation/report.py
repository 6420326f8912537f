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
from taming.files import write_atomically

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
img { max-width: 100%; image-rendering: pixelated } h2 { margin-top: 2.2rem } figcaption { color: #555 }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd }
.wide { overflow-x: auto } figure { margin: 1rem 0 }
@media (max-width: 40rem) { body { margin: .5rem auto; font-size: 15px } td, th { font-size: 13px } }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: 13px }
"""
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "omegaconf")


@dataclass
class Section:
    """A heading, a sentence, pictures with captions, rows of figures, and preformatted text;
    whatever is given.
    """

    title: str
    text: str = ""
    pictures: Sequence[tuple[str, Tensor | bytes]] = ()
    rows: Sequence[tuple[str, ...]] = ()
    folded: Sequence[tuple[str, str]] = field(default_factory=list)


HEAD = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"


def page(title: str, sections: Sequence[Section]) -> str:
    body = "\n".join(_section(section) for section in sections)
    return (
        f"<!doctype html><html lang='en'><head>{HEAD}<title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>"
    )


def write(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes the page whole or not at all."""
    write_atomically(path, lambda file: file.write_text(page(title, sections)))
    return Path(path)


def run_section(title: str, folder: Path, text: str, curves: Sequence[Sequence[str]]) -> Section:
    """What a run folder tells: its curves (one plot for each list of metric names), last figures,
    last pictures and configuration.
    """
    rows = read_metrics(folder / "metrics.csv")
    last = {name: value for _, name, value in rows if name.startswith("validation/")}
    drawn = sorted((folder / "pictures").glob("*.png"))
    pictures = (
        [(f"validation pictures at batch {int(drawn[-1].stem)}", drawn[-1].read_bytes())]
        if drawn
        else []
    )
    pictures += [(", ".join(names), plot(rows, names)) for names in curves]
    return Section(
        title,
        text,
        pictures,
        [(name.removeprefix("validation/"), f"{value:.4g}") for name, value in last.items()],
        [("configuration", (folder / "config.yaml").read_text())],
    )


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
    parts += [
        f"<figure><img alt='{html.escape(caption)}'"
        f" src='{_address(picture)}'><figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, picture in section.pictures
    ]
    if section.rows:
        parts.append(
            "<div class='wide'><table>" + "".join(map(_row, section.rows)) + "</table></div>"
        )
    parts += [
        f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
        for name, text in section.folded
    ]
    return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    name, *values = (html.escape(cell) for cell in cells)
    tag = "td" if name else "th"  # a row without a name is the head
    return f"<tr><th>{name}</th>" + "".join(f"<{tag}>{value}</{tag}>" for value in values) + "</tr>"


def _address(picture: Tensor | bytes) -> str:
    """The picture itself, as an address."""
    if isinstance(picture, Tensor):
        buffer = io.BytesIO()
        images.to_pil(picture).save(buffer, format="PNG")
        picture = buffer.getvalue()
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
