"""Data sets -> tar shards that every tool of the field reads, by any number of processes."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from taming.data.batches import BrokenPictures, Skipped
from taming.data.interface import PictureSet
from taming.data.members import Whole, members_of, sample_name, unstored
from taming.data.reading import CorruptImage
from taming.data.shard_index import index_of
from taming.data.tar import write_tar
from taming.data.views import View
from taming.errors import UserError
from taming.files import check_output, make_writable, write_atomically
from taming.inference.share import share_of_process
from taming.inference.sources import YAML, pictures_of
from taming.inference.work import Claims, shared_parts

ABOUT = "shards.json"  # what a folder of shards is made of


def shard(
    source: str,
    out: str | Path,
    samples: int = 1000,
    size: tuple[int, int] | None = None,
    part: str = "train",
    share: str | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Writes OUT/00000.tar, OUT/00001.tar, ... in the order of the data set, and classes.txt where
    it has labels. Shards that are there already are not written again; several processes share
    them out.

    Args:
        source: see `sources.pictures_of`.
        out: a folder of its own.
        samples: in each shard.
        size: (H, W) that pictures are resized and cropped to; None: files as they are.
        part: of a configuration: train or validation.
        share: "i/n", see `share_of_process`.
        allow: packages of one's own that a configuration may name.

    Returns:
        A line about what is in OUT.

    Raises:
        UserError: more than 1 % of the pictures can't be used, OUT holds shards of something else,
            a full disk ...
    """
    out, process = Path(out), share_of_process(share or "auto")
    check_output(out, [source] if Path(source).exists() else [])
    view = View(size, flip=False, upscale=True) if size else Whole()
    dataset = pictures_of(source, view, part, allow)
    if source.endswith(YAML) and isinstance(getattr(dataset, "view", None), View):
        dataset.view = view
    count = -(-len(dataset) // samples)
    parts = [f"{number:05d}.tar" for number in range(count)]
    make_writable(out)
    about = {"source": source, "samples": len(dataset), "in each": samples, "size": size}
    write_about(out / ABOUT, json.loads(json.dumps(about)))
    if getattr(dataset, "classes", None):
        text = "\n".join(f"{i} {name}" for i, name in enumerate(dataset.classes)) + "\n"
        write_atomically(out / "classes.txt", lambda file: file.write_text(text, encoding="utf-8"))

    broken = BrokenPictures(len(dataset))
    mine = shared_parts(
        Claims(out), parts, lambda name: (out / name).is_file(), process.rank, process.world
    )
    for name in tqdm(mine, desc="shards", unit="shard", disable=None, file=sys.stderr):
        write_shard(out / name, dataset, parts.index(name) * samples, samples, broken)
    done = sum((out / name).is_file() for name in parts)
    if done == count:
        index = index_of([str(out / name) for name in parts], out)
        return f"{len(index)} samples in {count} shards in '{out}'"
    return f"{done} of {count} shards in '{out}'; the others are being made, or wait for a process"


def write_shard(
    path: Path, dataset: PictureSet, first: int, samples: int, broken: BrokenPictures
) -> None:
    """One shard of the samples from `first` on; what can't be used is left out and counted."""
    entries = []
    for index in range(first, min(first + samples, len(dataset))):
        try:
            entries.append((sample_name(dataset, index), members_of(dataset, index)))
        except CorruptImage as error:
            broken.note([Skipped(str(error))])
    if not first and entries:
        rest = unstored(dataset[(first, None)])
        if rest:
            print(f"shards have no place for {', '.join(rest)}; they leave it out", file=sys.stderr)
    write_atomically(path, lambda file: write_tar(file, entries))


def write_about(path: Path, about: dict) -> None:
    """What a folder is made of, by whoever comes first. Raises UserError where it is made of
    something else.
    """
    if not path.is_file():
        text = json.dumps(about, indent=1)
        write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        differences = [key for key in about if before.get(key) != about[key]]
    except (OSError, ValueError, AttributeError):
        raise UserError(f"'{path}' is damaged; choose another folder with -o") from None
    if differences:
        key = differences[0]
        raise UserError(
            f"'{path.parent}' is made of something else ({key} {before.get(key)!r:.80} instead of"
            f" {about[key]!r:.80}); choose another folder with -o"
        )
