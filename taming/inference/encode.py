"""The codes of pictures: of a folder in one file, or of a whole data set in a folder of files that
many processes make together.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from taming.data.batches import BrokenPictures, SkippingBroken, collate
from taming.data.codes import About, Rows, part_ends, read_about, write_rows
from taming.data.folder import ViewParameters, find_pictures
from taming.data.interface import PictureSet
from taming.errors import UserError
from taming.files import check_output, make_writable, size_and_date, write_atomically
from taming.first_stage.interface import FirstStage, evaluating, pad_to_multiple
from taming.formats.load import find_checkpoint, load
from taming.inference.conditions import named
from taming.inference.memory import check_reconstruction
from taming.inference.models import batches_of, first_stage_of, remark_on_masks
from taming.inference.share import Share, share_of_process
from taming.inference.sources import pictures_of
from taming.inference.work import Claims, shared_parts
from taming.second_stage.model import SecondStage

SAMPLES = 4096  # in a file of codes, where the source has no shards


def encode_folder(
    checkpoint: str | Path,
    folder: str | Path,
    out: str | Path,
    config: str | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Writes the codes of each picture under a folder, padded to what the strides divide, into one
    file: NAME, int32 (h, w); with several levels NAME/0, NAME/1, ...

    Args:
        checkpoint: of either stage: whatever `taming.load` takes.
        folder: of pictures; for a mask tokenizer of label maps.
        out: the .npz file.
        config: the YAML that came with a published checkpoint.
        allow: packages of one's own that the checkpoint may name.

    Returns:
        A line with the number of pictures and the range of codes.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise UserError(f"picture folder '{folder}' does not exist")
    check_output(out, (find_checkpoint(checkpoint), folder), (".npz",))
    pictures = named(find_pictures(folder, folder), folder)
    for name, path in pictures:
        if not name.isprintable():
            raise UserError(f"the name of picture {str(path)!r} is no text; rename it")
    model = first_stage_of(checkpoint, config, allow)
    if not isinstance(model, FirstStage):
        raise UserError(f"'{checkpoint}' is a {type(model).__name__}, which has no codes")
    device = share_of_process().device
    codes, model = {}, model.to(device)
    for names, batch in batches_of(model, pictures):
        check_reconstruction(model, batch)
        levels = model.encode(pad_to_multiple(batch.to(device), model.multiple))
        for i, level in enumerate(levels):
            keys = names if len(levels) == 1 else [f"{name}/{i}" for name in names]
            codes |= zip(keys, level.to(torch.int32).cpu().numpy())

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez_compressed(stream, **codes)

    write_atomically(out, write)
    count, highest = len(pictures), ", ".join(str(n - 1) for n in model.num_codes)
    return f"codes of {count} picture{'s' * (count > 1)} in '{out}', from 0 to {highest}"


def encode_set(
    checkpoint: str | Path,
    source: str,
    out: str | Path,
    view: ViewParameters | None = None,
    views: int | None = None,
    *,
    share: str | None = None,
    part: str = "train",
    batch_size: int = 32,
    workers: int = 0,
    config: str | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Writes the codes of a data set into a folder that `taming.data.Codes` reads: one file for
    each of its shards. Any number of processes, on machines that see one disk, share the files;
    what a killed one had in hand, another makes.

    Args:
        checkpoint: a first stage; or a second stage, for the tokens of its condition, too.
        source: see `sources.pictures_of`.
        out: the folder.
        view: of each picture: a size, or {size, scale, flip}, see View; default: the size that a
            second stage was trained on.
        views: random views of each picture; None: the fixed one.
        share: "i/n", see `share_of_process`.
        part: of a configuration: train or validation.
        batch_size: pictures that are encoded at once.
        workers: processes that read pictures beside this one.
        config: the YAML that came with a published checkpoint.
        allow: packages of one's own that may be named.

    Returns:
        A line about what is in OUT.

    Raises:
        UserError: OUT holds codes of another first stage, view or source; more than 1 % of the
            pictures can't be used; a full disk ...
    """
    out, process = Path(out), share_of_process(share or "auto")
    if out.is_file():
        raise UserError(f"'{out}' is a file; codes go into a folder, or into NAME.npz")
    check_output(out, [source] if Path(source).exists() else [])
    most = max(32, 4 * (os.cpu_count() or 1))  # as data.workers: many more bring a machine down
    if not isinstance(workers, int) or not 0 <= workers <= most:
        raise UserError(f"workers {workers} should be a whole number from 0 to {most}")
    model = load(checkpoint, config, allow=allow)
    if not isinstance(model, FirstStage | SecondStage):
        raise UserError(f"'{checkpoint}' is a {type(model).__name__}, which has no codes")
    if view is None:
        if not isinstance(model, SecondStage):
            raise UserError("--size HxW: say what pictures are resized and cropped to")
        view = list(model.trained_size)
    dataset = pictures_of(source, view, part, allow)
    job = Encoding(model.to(process.device), dataset, views, batch_size, workers)
    if process.rank == 0:
        remark_on_masks(job.tokenizer, getattr(dataset, "paths", ()))
    about = job.write_all(out, process)
    return status(out) if about.ends else ""


def status(folder: str | Path) -> str:
    """How much of a folder of codes is there, and who works on the rest."""
    folder = Path(folder)
    about = read_about(folder)
    claims, done, lines = Claims(folder), 0, []
    for file in about.files:
        if (folder / file).is_file():
            done += 1
        elif holder := claims.holder(claims.path(file)):
            lines.append(f"  {file}: {holder} works on it")
    views = "the fixed view" if about.views is None else f"{about.views} views"
    text = (
        f"{done} of {len(about.files)} files of codes in '{folder}'; {about.ends[-1]} pictures in"
        f" {views}, grids {about.grids}, first stage {about.first_stage}"
    )
    return "\n".join([text, *lines])


@dataclass
class Encoding:
    """A data set that is being encoded.

    Args:
        model: the tokenizer, or a second stage whose condition is encoded, too.
        source: the pictures.
        views: random views of each; None: the fixed one.
        batch_size: pictures that are encoded at once.
        workers: processes that read them.
        samples: in a file, where the source has no shards.
    """

    model: FirstStage | SecondStage
    source: PictureSet
    views: int | None = None
    batch_size: int = 32
    workers: int = 0
    samples: int = SAMPLES

    def about(self) -> About:
        """What the codes will be of. Raises UserError where the pictures do not fit the model."""
        item = SkippingBroken(self.source)[(0, None)]
        key = self.tokenizer.key
        if key not in item:
            raise UserError(
                f"the model reads '{key}', but the pictures come with {', '.join(item)}"
            )
        with torch.no_grad(), evaluating(self.model):
            codes, condition = self.encoded(collate([item]))
        return About(
            weights_hash(self.tokenizer),
            weights_hash(self.model.conditioner) if isinstance(self.model, SecondStage) else "",
            [int(number) for number in self.tokenizer.num_codes],
            [list(level.shape[1:]) for level in codes],
            [(vocabulary, grid) for vocabulary, grid, _ in condition],
            repr(getattr(self.source, "view", None)),
            self.views,
            source_hash(self.source),
            part_ends(self.source, self.samples),
        )

    @property
    def tokenizer(self) -> FirstStage:
        return self.model.first_stage if isinstance(self.model, SecondStage) else self.model

    def encoded(
        self, batch: dict
    ) -> tuple[list[Tensor], list[tuple[int, list[int] | None, Tensor]]]:
        """Codes of each level; vocabulary, grid and tokens of each part of the condition."""
        device = next(self.model.parameters()).device
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        codes = [level.cpu() for level in self.tokenizer.encode(batch[self.tokenizer.key])]
        if not isinstance(self.model, SecondStage):
            return codes, []
        parts = self.model.conditioner(batch)
        return codes, [
            (part.vocabulary, list(part.grid) if part.grid else None, part.tokens.cpu())
            for part in parts
        ]

    def write_all(self, folder: Path, share: Share, wait: bool = False) -> About:
        """This process's share of the files, and what others leave; see `shared_parts`."""
        about = self.about()
        make_writable(folder)
        about.write(folder)
        broken = BrokenPictures(len(self.source))
        mine = shared_parts(
            Claims(folder),
            about.files,
            lambda file: (folder / file).is_file(),
            share.rank,
            share.world,
            wait,
        )
        for file in mine:
            write_rows(folder / file, about, self.rows(about, file, broken))
        return about

    def rows(self, about: About, file: str, broken: BrokenPictures) -> Rows:
        """What one file is to hold."""
        samples, numbers = about.samples(file), range(self.views) if self.views else [None]
        keys = [(index, view) for index in samples for view in numbers]
        codes: list[list[Tensor]] = [[] for _ in about.grids]
        condition: list[list[Tensor]] = [[] for _ in about.parts]
        words: dict[str, list] = {"class": [], "caption": []}
        before = sum(broken.named.values())
        for batch in self._batches(keys, file):
            broken.note(batch["skipped"])
            levels, parts = self.encoded(batch)
            for column, level in zip(codes, levels):
                column.append(level.to(torch.int32))
            for column, (_, _, tokens) in zip(condition, parts):
                column.append(tokens.to(torch.int32))
            for name, column in words.items():
                column += _listed(batch.get(name))
        shape = (len(samples), len(numbers))
        labels, captions = (column[:: len(numbers)] or None for column in words.values())
        return Rows(
            [_table(level, shape) for level in codes],
            [_table(part, shape) for part in condition],
            [self._name(index) for index in samples],
            labels,
            captions,
            sum(broken.named.values()) - before,
        )

    def _batches(self, keys: list[tuple[int, int | None]], file: str) -> Iterator[dict]:
        loader = DataLoader(
            SkippingBroken(self.source),
            batch_size=self.batch_size,
            sampler=keys,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=self.workers,
            generator=torch.Generator(),
        )
        model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        bar = tqdm(loader, desc=file, unit="batch", disable=None, file=sys.stderr, leave=False)
        with torch.no_grad(), evaluating(model):
            yield from bar

    def _name(self, index: int) -> str:
        return self.source.name(index) if hasattr(self.source, "name") else str(index)


def _listed(column: Any) -> list:
    return column.tolist() if isinstance(column, Tensor) else list(column or [])


def _table(pieces: list[Tensor], shape: tuple[int, int]) -> np.ndarray:
    rows = torch.cat(pieces)
    return rows.reshape(*shape, *rows.shape[1:]).numpy()


def weights_hash(module: nn.Module) -> str:
    """Of all that a module computes with."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def source_hash(source: PictureSet) -> str:
    """What tells a data set from others: its kind, its files with sizes and dates."""
    rows: Any = repr(source)
    if hasattr(source, "files"):
        rows = [
            (str(file), *size_and_date(file))
            for index in range(len(source))
            for file in source.files(index)
        ]
    facts = json.dumps([len(source), rows]).encode()
    return f"{type(source).__name__} {hashlib.sha256(facts).hexdigest()[:16]}"
