"""Folders of samples: what is asked for, what of it is there, the rest drawn in batches."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from taming import images
from taming.errors import UserError
from taming.files import make_writable
from taming.inference.animation import Frames
from taming.inference.conditions import batch_of, conditions_of, read_known
from taming.inference.draw import Known, draw_batch, joined
from taming.inference.job import Job, jobs_of
from taming.inference.memory import check_memory
from taming.inference.models import second_stage_of
from taming.inference.record import Record, read_record, record_of
from taming.inference.share import share_of_process
from taming.inference.sheet import write_sheet
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling


def sample(
    checkpoint: str | Path,
    out: str | Path = "samples",
    sampling: Sampling | None = None,
    *,
    masks: str | None = None,
    images: str | None = None,
    classes: Sequence[int] | None = None,
    conditions: list[tuple[str, dict]] | None = None,
    samples: int = 1,
    known: tuple[str, str] | None = None,
    batch_size: int = 16,
    animate: bool = False,
    overwrite: bool = False,
    config: str | None = None,
    allow: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """Draws pictures of any size into a folder: OUT/NAME-K.png for sample K of each condition,
    and OUT/sheet.png with the conditions beside their samples.

        taming.sample("landscapes", "drawn", masks="layouts", samples=4, size=(128, 192), seed=7)

    Each PNG holds what it takes to draw it again. Pictures that are there already, with the same
    settings, are not drawn again. Under torchrun each process draws its share, on its own GPU
    where there are some.

    Args:
        checkpoint: a second stage: whatever `taming.load` takes.
        out: the folder, made where it is missing.
        sampling: size, seed, temperature, ...; see `taming.second_stage.Sampling`.
        masks: a folder of label maps, or one of them.
        images: a folder of pictures or depth maps, or one of them, for a prior conditioned on them.
        classes: class numbers.
        conditions: (name, `conditions.metadata_of` an item) of each picture, instead of files.
        samples: of each condition.
        known: a picture, and which part of it stays: a mask file, top, left, top:0.3, ...
        animate: also write a GIF of each picture growing.
        overwrite: draw again what is in OUT with other settings.
        config: the YAML that came with a published checkpoint.
        allow: packages of one's own that the checkpoint may name.
        changes: fields of `sampling`, changed.

    Returns:
        The contact sheet; OUT where other processes are still drawing.

    Raises:
        UserError: conditions that the prior does not know, too little memory, OUT not writable ...
    """
    # 1. what draws
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size {batch_size!r} should be a whole number of at least 1")
    sampling = Sampling.of(sampling, **changes).seeded()
    share, out = share_of_process(), Path(out)
    model = second_stage_of(checkpoint, config, allow).to(share.device)
    if sampling.guidance != 1:
        model.check_guidance()

    # 2. what is to be drawn; layouts of a size that does not fit into memory are not even made
    known_pixels = read_known(known) if known else None
    if known_pixels and not sampling.size:
        height, width = known_pixels[0].shape[-2:]
        sampling = replace(sampling, size=(height, width))
    if sampling.size:
        check_memory(model, {}, sampling, 1, animate)
    if conditions is None:
        conditions = conditions_of(model, out, sampling, masks, images, classes)
    jobs = jobs_of(out, conditions, samples)
    record = record_of(checkpoint, config, known, share.device.type, sampling)
    _check_inputs_stay(jobs, record)
    _check_sheet(out)
    make_writable(out)

    # 3. this process's share, which must not depend on what others have drawn by now
    mine = jobs[share.rank :: share.world]
    missing = [job for job in mine if not _is_done(job, record, animate, overwrite)]
    if len(missing) < len(mine):
        print(
            f"{len(mine) - len(missing)} of {len(mine)} pictures are there already", file=sys.stderr
        )

    # 4. the pictures, and the sheet by whoever comes last
    _draw_all(model, missing, record, known_pixels, batch_size, animate)
    return write_sheet(model, jobs, sampling, out) if _all_there(jobs) else out


def _draw_all(
    model: SecondStage,
    jobs: list[Job],
    record: Record,
    known: Known | None,
    batch_size: int,
    animate: bool,
) -> None:
    if not jobs:
        return
    sampling, batch_size = record.sampling, min(batch_size, len(jobs))
    first = batch_of(model, jobs[0].condition, sampling)
    check_memory(model, first, sampling, batch_size, animate)
    start = time.perf_counter()
    for done in range(0, len(jobs), batch_size):
        part = jobs[done : done + batch_size]
        batch = joined(model, part, sampling)
        frames = Frames(model, batch) if animate else None
        pictures = draw_batch(model, part, batch, sampling, known, frames).cpu()
        record = replace(record, batch=len(part), threads=torch.get_num_threads())
        for row, (job, picture) in enumerate(zip(part, pictures)):
            metadata = _of_job(record, job, row).metadata()
            images.save(picture, job.path, metadata)
        height, width = pictures.shape[-2:]
        if frames:
            frames.write([job.path.with_suffix(".gif") for job in part], (height, width))
        codes = (height // model.first_stage.stride) * (width // model.first_stage.stride)
        _print_progress(done + len(part), len(jobs), time.perf_counter() - start, codes)


def _of_job(record: Record, job: Job, row: int = 0) -> Record:
    return replace(record, condition=job.condition, number=job.number, row=row)


def _is_done(job: Job, record: Record, animate: bool, overwrite: bool) -> bool:
    film = job.path.with_suffix(".gif")
    if not job.path.is_file():
        if animate and film.is_file() and not overwrite:
            raise UserError(f"'{film}' exists; choose another folder with -o, or add --overwrite")
        return False
    there = read_record(job.path)
    if there is None:
        raise UserError(
            f"'{job.path}' exists and was not drawn by taming sample; choose another folder with -o"
        )
    if overwrite:
        return False
    difference = _of_job(record, job).difference(there)
    if difference:
        raise UserError(
            f"'{job.path}' exists and was drawn with {difference}; choose another folder with -o,"
            " or add --overwrite"
        )
    return not animate or film.is_file()


def _check_inputs_stay(jobs: Sequence[Job], record: Record) -> None:
    """Raises UserError where a picture would be written over what it is drawn from."""
    inputs = [*record.files()] + [
        job.condition["image"] for job in jobs if "image" in job.condition
    ]
    paths = {Path(name).resolve() for name, _ in inputs}
    for job in jobs:
        if job.path.resolve() in paths:
            raise UserError(
                f"'{job.path}' is read by this command and would be overwritten; choose another"
                " folder with -o"
            )


def _check_sheet(out: Path) -> None:
    """Raises UserError for a sheet.png that lies beside no sample of ours."""
    if (out / "sheet.png").is_file() and not any(map(read_record, out.rglob("*.png"))):
        raise UserError(f"'{out / 'sheet.png'}' exists; choose another folder with -o")


def _all_there(jobs: Sequence[Job]) -> bool:
    return all(job.path.is_file() for job in jobs)


def _print_progress(done: int, total: int, seconds: float, codes: int) -> None:
    rate = done / seconds
    print(
        f"{done} of {total} pictures, {rate:.2g} pictures/s, {rate * codes:.0f} tokens/s,"
        f" {(total - done) / rate:.0f} s left",
        file=sys.stderr,
    )
