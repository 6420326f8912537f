"""A published class-conditional prior, whose tokenizer is a file in the same folder, as a second
stage.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from taming.config import from_plain, to_plain
from taming.errors import UserError
from taming.formats.content import Content
from taming.formats.ours import read_raw
from taming.formats.source import Source


def file_beside(path: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that lies in the folder of `path`."""
    places = (path.parent / name for name in names)
    return next((place for place in places if place.is_file()), None)


def read_tokenizer(
    path: Path, owner: str, names: Sequence[str], room: ModuleType, allow: Iterable[str]
) -> Content:
    """The tokenizer of the prior at `path`.

    Args:
        path: of the prior.
        owner: whose prior it is.
        names: of the tokenizer's file.
        room: the format of the tokenizer.
        allow: packages that it may name classes of.

    Raises:
        UserError: there is none, or it is not of this format.
    """
    tokenizer = file_beside(path, names)
    if tokenizer is None:
        raise UserError(
            f"'{path}' is a prior of {owner} without its tokenizer; put '{names[0]}' into the same"
            " folder"
        )
    source = Source(tokenizer, read_raw(tokenizer))
    if not room.recognises(source):
        raise UserError(f"'{tokenizer}' is not a tokenizer of {room.NAME}")
    return room.read(source, allow)


def class_prior_content(
    source: Source,
    owner: str,
    first: Content,
    target: str,
    params: dict[str, Any],
    tensors: dict[str, Tensor],
    unknown: list[str],
    stride: int,
    names: Sequence[str],
    allow: Iterable[str],
) -> Content:
    """A prior over the codes of `first`, conditioned on the class.

    Args:
        source: the file of the prior.
        owner: whose it is.
        first: its tokenizer.
        target: class of the prior.
        params: of the prior; its one part is the classes.
        tensors: of the prior, by our names.
        unknown: names of its tensors that no published one has.
        stride: of the tokenizer.
        names: of the tokenizer's file.
        allow: packages that it may name classes of.
    """
    classes = params["parts"][0]["vocabulary"]
    model = {
        "target": "taming.second_stage.SecondStage",
        "params": {
            "first_stage": first.config["model"],
            "conditioner": {
                "target": "taming.second_stage.ClassLabel",
                "params": {"classes": classes},
            },
            "prior": {"target": target, "params": params},
        },
    }
    size = stride * params["grid"][0]
    tree = {"model": model, "condition_dropout": 0.1, "variables": {"size": size}}
    weights = {f"first_stage.{name}": tensor for name, tensor in first.weights.items()}
    weights |= {f"priors.0.{name}": tensor for name, tensor in tensors.items()}
    return Content(
        stage="second",
        config=to_plain(from_plain(tree)),
        weights=weights,
        batches=0,
        figures={},
        unused=source.unused | first.unused,
        notes=[*source.notes, f"its tokenizer is '{file_beside(source.path, names)}'"],
        unknown=[*first.unknown, *unknown],
        source=owner,
        path=str(source.path),
        allow=tuple(allow),
    )
