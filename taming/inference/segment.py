"""Masks of photographs, as a segmenter sees them: layouts to draw from, or to train on."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from taming.data.card import Card
from taming.data.layouts import Layout
from taming.data.legend import Legend, read_legend
from taming.data.reading import read_image, to_tensor
from taming.data.segmentation import IMAGES, MASKS
from taming.errors import UserError
from taming.files import make_writable, write_atomically
from taming.formats.load import load
from taming.inference.conditions import files_of
from taming.inference.models import labels_of, legend_for
from taming.inference.template import legend_text, palette_picture
from taming.segmenter import Segmenter

SHIPPED = "landscapes_segmenter"
CLOSER = 1.5  # times the size of the training: more detail, and still what was learned


def segment_folder(
    pictures: str | Path,
    out: str | Path,
    segmenter: str | Path = SHIPPED,
    labels_for: str | Path | None = None,
    overwrite: bool = False,
    allow: Sequence[str] = (),
) -> Path:
    """Writes OUT/NAME.png, a palette picture of labels, for every picture, and OUT/legend.txt;
    where OUT is the segmentations/ beside images/, also the classes.txt of such a data set.

    Args:
        pictures: a folder, with folders in it, or one picture.
        out: a folder; it may not lie in `pictures`.
        segmenter: a checkpoint; by default the one that is shipped.
        labels_for: a model whose numbers the labels get, matched by name.
        overwrite: write over masks that are there.
        allow: packages of your own that the segmenter may name.

    Returns:
        OUT.

    Raises:
        UserError: no pictures, a file that is there already, labels that the model does not have, a
            classes.txt of other labels.
    """
    model = load_segmenter(segmenter, allow)
    legend = legend_of(model, labels_for)
    names = (legend or Legend.of(model.labels)).names
    files, out = files_of(str(pictures)), Path(out)
    folder = Path(pictures)
    if folder.is_dir() and folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"-o {out} lies in '{pictures}'; masks beside pictures would be confused")
    classes = _class_list(out, names)
    make_writable(out)
    for name, _ in files:
        if not overwrite and (out / f"{name}.png").exists():
            raise UserError(f"'{out / name}.png' exists; choose another folder, or add --overwrite")
    for name, path in files:
        layout = segment_image(model, read_image(path), legend)
        picture = palette_picture(layout.mask, layout.legend)
        write_atomically(out / f"{name}.png", lambda file, p=picture: p.save(file, "PNG"))
        print(layout.describe(f"{name}.png"))
    text = legend_text(legend or Legend.of(model.labels))
    for path in [out / "legend.txt", *classes]:
        write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
    return out


def _class_list(out: Path, names: Sequence[str]) -> list[Path]:
    """The classes.txt to write: of a data set of one's own that has none yet."""
    path = out.absolute().parent / "classes.txt"
    if out.absolute().name != MASKS or not (path.parent / IMAGES).is_dir():
        return []
    if not path.exists():
        return [path]
    if read_legend(path).names != tuple(names):
        raise UserError(
            f"'{path}' lists other labels than the masks would have ({', '.join(names)}); move it"
            " away, and it is written anew, or put the masks into another folder"
        )
    return []


def load_segmenter(checkpoint: str | Path = SHIPPED, allow: Sequence[str] = ()) -> Segmenter:
    """Raises UserError for any other checkpoint."""
    model = load(checkpoint, stage="segmenter", allow=allow)
    assert isinstance(model, Segmenter)
    return model


def legend_of(segmenter: Segmenter, labels_for: str | Path | None = None) -> Legend | None:
    """Of the masks to be made: the segmenter's labels, or those of another model by name; its own
    entries stay in their order.
    """
    legend = labels_of(segmenter)
    if labels_for is None or legend is None:
        return legend
    other = legend_for(labels_for)
    if other is None:
        raise UserError(f"'{labels_for}' reads no masks, so it has no labels to match")
    return legend.in_terms_of(other.names, f"the segmenter for '{labels_for}'")


@torch.no_grad()
def segment_image(model: Segmenter, image: Image.Image, legend: Legend | None = None) -> Layout:
    """The mask of a picture, at the picture's size.

    Args:
        model: the segmenter.
        image: RGB, of any size.
        legend: whose entries are the segmenter's labels; default: its own.
    """
    legend = legend or labels_of(model) or Legend.of(model.labels)
    logits = segment(model, to_tensor(image)[None])
    places = logits.argmax(dim=1)[0]
    table = torch.tensor(legend.labels, device=places.device)
    labels = table[places].to(torch.uint8).cpu().numpy()
    return Layout(Image.fromarray(labels), legend)


def segment(model: Segmenter, images: Tensor) -> Tensor:
    """Logits (B, labels, H, W) of pictures (B, 3, H, W), looked at in about the size of the
    training: a segmenter has seen no details of larger ones.
    """
    height, width = images.shape[-2:]
    trained = model.card.size if isinstance(model.card, Card) else None
    side = CLOSER * min(trained or (height, width))
    share = min(1.0, side / min(height, width))
    if share == 1:
        return model(images)
    size = (max(1, round(height * share)), max(1, round(width * share)))
    small = F.interpolate(images, size, mode="bilinear", antialias=True)
    return F.interpolate(model(small), (height, width), mode="bilinear")
