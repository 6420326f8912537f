"""The training set's codes and conditions, computed once for a few fixed views of each picture and
kept on disk.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from taming.data.codes import About, CodeFile, Codes
from taming.data.interface import PictureSet
from taming.errors import UserError
from taming.inference.encode import Encoding, weights_hash
from taming.inference.share import share_of_process
from taming.second_stage.interface import Part
from taming.second_stage.model import SecondStage

CHECKED = 2**28  # bytes of codes whose checksums are compared before each run
PartShape = tuple[int, tuple[int, int] | None]
"""Vocabulary and grid of a part of the condition."""


class CachedCodes(Codes):
    """As Codes; the pictures themselves are in `source`."""

    def __init__(self, folder: str, source: PictureSet):
        super().__init__(folder)
        self.source = source

    def name(self, index: int) -> str:
        return self.source.name(index) if hasattr(self.source, "name") else super().name(index)

    def __getstate__(self) -> dict:
        return {"folder": str(self.folder), "source": self.source}


def cached_codes(
    model: SecondStage,
    source: PictureSet,
    views: int | None,
    folder: str | Path,
    on_cpu: bool = True,
) -> Codes:
    """The codes of each picture, read from `folder` where they were computed for the same weights,
    files and views. What is damaged or missing is computed, by all processes of the run together.

    Args:
        source: the pictures; what is codes already is taken as it is.
        views: views 0 to views - 1 of each picture; None: the fixed one.
        on_cpu: compute there, even where this process has a GPU.
    """
    if isinstance(source, Codes):
        return source
    share = share_of_process()
    work = Encoding(model if on_cpu else model.to(share.device), source, views)
    about = work.about()
    place = Path(folder) / f"codes-{about.key}"
    remove_damaged(place, about)
    work.write_all(place, share, wait=True)
    model.cpu()
    return CachedCodes(str(place), source)


def remove_damaged(folder: Path, about: About) -> None:
    """Files that are not what they should be."""
    there = [folder / file for file in about.files if (folder / file).is_file()]
    check = sum(path.stat().st_size for path in there) <= CHECKED
    for path in there:
        try:
            CodeFile(path, about, check)
        except UserError:
            print(f"code cache '{path}' is damaged; its codes are computed anew", file=sys.stderr)
            path.unlink(missing_ok=True)


def check_codes(model: SecondStage, dataset: Codes, name: str) -> None:
    """Raises UserError where codes are none that the model's priors know."""
    about, expected = dataset.about, [list(prior.grid) for prior in model.levels]
    if about.first_stage != weights_hash(model.first_stage):
        raise UserError(
            f"data.{name}: '{dataset.folder}' holds codes of another first stage"
            f" ({about.first_stage}) than model.params.first_stage"
            f" ({weights_hash(model.first_stage)}); encode anew, or name the one that made them"
        )
    if [list(grid) for grid in about.grids] != expected:
        raise UserError(
            f"model.params.size: its grids are {expected}, but data.{name} has {about.grids}; make"
            " the size of the model and that of the codes equal"
        )
    if about.parts and about.conditioner != weights_hash(model.conditioner):
        raise UserError(
            f"data.{name}: '{dataset.folder}' holds the tokens of another conditioner; encode anew"
            " with this configuration's"
        )


def condition_of(model: SecondStage, batch: dict, shapes: Sequence[PartShape]) -> tuple[Part, ...]:
    """Of a batch of codes: the tokens that were encoded with them, else what the conditioner makes
    of a class or a caption.
    """
    if "condition" in batch:
        return as_condition(batch["condition"], shapes)
    return model.conditioner({**batch, "count": len(batch["codes"][0])})


def as_condition(tokens: list[Tensor], shapes: Sequence[PartShape]) -> tuple[Part, ...]:
    return tuple(Part(t, vocabulary, grid) for t, (vocabulary, grid) in zip(tokens, shapes))
