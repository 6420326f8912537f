"""Many samples in few files: tars of pictures, which processes share out whatever dies."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from taming import images
from taming.data.tar import write_tar
from taming.files import write_atomically
from taming.inference.job import Job
from taming.inference.record import Record
from taming.inference.shard import write_about
from taming.inference.share import Share
from taming.inference.work import Claims, shared_parts

Form = Literal["png", "shards", "uint8"]
"""A file for each picture; tars of PNG; tars of PPM: numbers of 8 bits, not compressed."""

SAMPLES = 250  # in each tar, and lost where a process dies
ABOUT = "samples.json"

Store = Callable[[Job, Tensor, dict[str, Any]], None]
"""What becomes of a picture (3, H, W) and of its metadata."""
Draw = Callable[[list[Job], Store], None]
"""Draws jobs, and stores each."""


def draw_shards(
    jobs: Sequence[Job], record: Record, draw: Draw, out: Path, share: Share, form: Form
) -> Path:
    """Writes OUT/00000.tar, ..., each whole or not at all; those that are there are not drawn
    again. A process takes its share first, then what others leave.

    Args:
        jobs: all of them, the same in every process.
        record: how they are drawn.
        draw: see Draw.
        out: the folder.
        share: of this process.
        form: shards or uint8.

    Raises:
        UserError: OUT holds samples that were drawn in another way.
    """
    about = {**replace(record, batch=1, threads=1).metadata(), "pictures": len(jobs), "form": form}
    write_about(out / ABOUT, json.loads(json.dumps(about)))
    parts = [f"{number:05d}.tar" for number in range(-(-len(jobs) // SAMPLES))]
    mine = shared_parts(
        Claims(out), parts, lambda part: (out / part).is_file(), share.rank, share.world
    )
    for part in mine:
        first = parts.index(part) * SAMPLES
        write_part(out / part, list(jobs[first : first + SAMPLES]), draw, out, form)
    return out


def write_part(path: Path, jobs: list[Job], draw: Draw, out: Path, form: Form) -> None:
    """One tar. A picture's name is that of the file that it would have."""
    entries = []

    def store(job: Job, picture: Tensor, metadata: dict[str, Any]) -> None:
        name = job.path.relative_to(out).with_suffix("").as_posix().replace(".", "_")
        text = json.dumps(metadata, sort_keys=True).encode()
        image = images.to_pil(picture)
        files = {"png": _png(image)}
        if form == "uint8":
            files = {"ppm": _ppm(image)}
        entries.append((name, {**files, "json": text}))

    draw(jobs, store)
    write_atomically(path, lambda file: write_tar(file, entries))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _ppm(image: Image.Image) -> bytes:
    """8 bits a number, (height, width, 3), behind a line of text."""
    pixels = np.asarray(image.convert("RGB"))
    return b"P6 %d %d 255\n" % (image.width, image.height) + pixels.tobytes()
