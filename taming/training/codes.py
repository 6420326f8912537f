"""The training set's codes and conditions, computed once for a few fixed views of each picture and
kept on disk.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from taming.data.batches import BrokenPictures, SkippingBroken, collate
from taming.data.interface import PictureSet
from taming.errors import UserError, first_line
from taming.files import make_writable, size_and_date, write_atomically
from taming.formats.checksums import damaged_record
from taming.second_stage.interface import Part
from taming.second_stage.model import SecondStage

BATCH = 32
PartShape = tuple[int, tuple[int, int] | None]
"""Vocabulary and grid of a part of the condition."""


class CachedCodes(PictureSet):
    """Item (index, view) -> {"codes": one (h, w) per level, "condition": tokens (M,) of each part,
    "name"}; the pictures themselves are in `source`.
    """

    def __init__(self, source: PictureSet, content: dict):
        self.source, self.views = source, content["views"]
        self.codes, self.tokens = content["codes"], content["tokens"]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        row = index * self.views + (view or 0)
        return {
            "codes": tuple(level[row].long() for level in self.codes),
            "condition": tuple(part[row].long() for part in self.tokens),
            "name": self.source.name(index),
        }


def cached_codes(
    model: SecondStage, source: PictureSet, views: int | None, folder: str | Path
) -> CachedCodes:
    """The codes of each picture, read from `folder` where they were computed for the same weights,
    files and views. A damaged file is computed anew.

    Args:
        views: views 0 to views - 1 of each picture; None: the fixed one.
    """
    path = Path(folder) / f"codes-{fingerprint(model, source, views)}.pt"
    if path.is_file():
        content = read_cache(path, model, len(source) * (views or 1))
        if content is not None:
            return CachedCodes(source, content)
        print(f"code cache '{path}' is damaged; its codes are computed anew", file=sys.stderr)
    make_writable(path.parent)  # said before the work, not after it
    content = compute(model, source, views)
    try:
        write_atomically(path, lambda file: torch.save(content, file))
    except UserError as error:
        print(f"{first_line(error)}; training continues without a code cache", file=sys.stderr)
    return CachedCodes(source, content)


def read_cache(path: Path, model: SecondStage, rows: int) -> dict | None:
    """The content of a cache; None where it is damaged or not of this many rows."""
    try:
        content = {} if damaged_record(path) else torch.load(path, weights_only=True)
        levels = [*content["codes"], *content["tokens"]]
        shapes = [tuple(level.shape) for level in content["codes"]]
    except Exception:  # torch raises many kinds
        return None
    grids = [(rows, *prior.grid) for prior in model.levels]
    complete = shapes == grids and all(len(level) == rows for level in levels)
    return content if complete else None


@torch.no_grad()
def compute(model: SecondStage, source: PictureSet, views: int | None) -> dict:
    broken = BrokenPictures(len(source))
    numbers = range(views) if views else [None]
    loader = DataLoader(
        SkippingBroken(source),
        batch_size=BATCH,
        sampler=[(index, view) for index in range(len(source)) for view in numbers],
        collate_fn=collate,
        generator=torch.Generator(),
    )
    device = next(model.parameters()).device
    model = model.to(memory_format=torch.channels_last)  # a third faster on CPUs
    codes, tokens = [], []
    for batch in tqdm(loader, desc="codes", unit="batch", disable=None, file=sys.stderr):
        broken.note(batch["skipped"])
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        levels = model.first_stage.encode(batch[model.first_stage.key])
        codes.append([level.to(torch.int32).cpu() for level in levels])
        tokens.append([part.tokens.to(torch.int32).cpu() for part in model.conditioner(batch)])
    return {
        "views": views or 1,
        "codes": [torch.cat(level) for level in zip(*codes)],
        "tokens": [torch.cat(part) for part in zip(*tokens)],
    }


def as_condition(tokens: list[Tensor], shapes: Sequence[PartShape]) -> tuple[Part, ...]:
    return tuple(Part(t, vocabulary, grid) for t, (vocabulary, grid) in zip(tokens, shapes))


def fingerprint(model: SecondStage, source: PictureSet, views: int | None) -> str:
    """Of everything that the codes depend on: weights, files, crops."""
    digest = hashlib.sha256()
    for module in (model.first_stage, model.conditioner):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    facts = [type(source).__name__, repr(getattr(source, "view", None)), _files(source), views]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:16]


def _files(source: PictureSet) -> list | str:
    """Path, size and date of every file that items are made of."""
    if not hasattr(source, "files"):
        return repr(source)
    rows = []
    for index in range(len(source)):
        for file in source.files(index):
            rows.append((str(file), *size_and_date(file)))
    return rows
