"""The training set's codes and conditions, computed once for a few fixed views of each picture and
kept on disk.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from taming.data.batches import BrokenPictures, SkippingBroken, collate
from taming.files import make_writable
from taming.second_stage.interface import Part
from taming.second_stage.model import SecondStage

BATCH = 32


class CachedCodes(Dataset):
    """Item (index, view) -> {"codes": one (h, w) per level, "condition": tokens (M,) of each part,
    "name"}; the pictures themselves are in `source`.
    """

    def __init__(self, source: Dataset, content: dict):
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
    model: SecondStage, source: Dataset, views: int | None, folder: str | Path
) -> CachedCodes:
    """The codes of views 0 to views - 1 of each picture, or of the fixed view for None; read from
    `folder` where they were computed for the same weights, files and views.
    """
    path = Path(folder) / f"codes-{fingerprint(model, source, views)}.pt"
    if not path.is_file():
        make_writable(path.parent)  # said before the work, not after it
        content = compute(model, source, views)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        torch.save(content, temporary)
        os.replace(temporary, path)
    return CachedCodes(source, torch.load(path, weights_only=True))


@torch.no_grad()
def compute(model: SecondStage, source: Dataset, views: int | None) -> dict:
    broken = BrokenPictures(len(source))
    keys = [(i, v) for i in range(len(source)) for v in (range(views) if views else [None])]
    loader = DataLoader(
        SkippingBroken(source),
        batch_size=BATCH,
        sampler=keys,
        collate_fn=collate,
        generator=torch.Generator(),
    )
    device = next(model.parameters()).device
    model = model.to(memory_format=torch.channels_last)  # a third faster on CPUs
    codes, tokens = [], []
    for batch in tqdm(loader, desc="codes", unit="batch", disable=None, file=sys.stderr):
        broken.note(batch["skipped"])
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        codes.append(
            [
                c.to(torch.int32).cpu()
                for c in model.first_stage.encode(batch[model.first_stage.key])
            ]
        )
        tokens.append([part.tokens.to(torch.int32).cpu() for part in model.conditioner(batch)])
    return {
        "views": views or 1,
        "codes": [torch.cat(level) for level in zip(*codes)],
        "tokens": [torch.cat(part) for part in zip(*tokens)],
    }


def parts_of(model: SecondStage, source: Dataset) -> list[tuple[int, tuple[int, int] | None]]:
    """Vocabulary and grid of each part of the condition."""
    item = SkippingBroken(source)[0]
    batch = {
        k: v[None] if isinstance(v, Tensor) else torch.tensor([v])
        for k, v in item.items()
        if not isinstance(v, str | list)
    }
    return [(part.vocabulary, part.grid) for part in model.conditioner(batch)]


def as_condition(
    tokens: list[Tensor], parts: list[tuple[int, tuple[int, int] | None]]
) -> tuple[Part, ...]:
    return tuple(Part(t, vocabulary, grid) for t, (vocabulary, grid) in zip(tokens, parts))


def fingerprint(model: SecondStage, source: Dataset, views: int | None) -> str:
    """Of everything that the codes depend on: weights, files, crops."""
    digest = hashlib.sha256()
    for module in (model.first_stage, model.conditioner):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    files = (
        [
            (str(f), f.stat().st_size, f.stat().st_mtime_ns)
            for i in range(len(source))
            for f in source.files(i)
        ]
        if hasattr(source, "files")
        else repr(source)
    )
    digest.update(
        json.dumps(
            [type(source).__name__, repr(getattr(source, "view", None)), files, views]
        ).encode()
    )
    return digest.hexdigest()[:16]
