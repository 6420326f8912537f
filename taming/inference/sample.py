"""Folders of samples: what is asked for, what of it is there, the rest drawn in batches."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from taming import images
from taming.errors import UserError
from taming.files import make_writable
from taming.inference.animation import Frames
from taming.inference.conditions import Reading, batch_of, conditions_of, layout_size, legend_of
from taming.inference.draw import draw_batch, joined
from taming.inference.entries import Entries
from taming.inference.job import Job, jobs_of
from taming.inference.known import EXTEND, KnownPart, read_known
from taming.inference.memory import check_memory
from taming.inference.models import second_stage_of
from taming.inference.paste import check_seam, pasted
from taming.inference.record import Record, read_record, record_of
from taming.inference.sample_shards import Form, Store, draw_shards
from taming.inference.share import Share, share_of_process
from taming.inference.sheet import write_sheet
from taming.precision import resolved
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling


def sample(
    checkpoint: str | Path,
    out: str | Path = "samples",
    sampling: Sampling | None = None,
    *,
    masks: str | None = None,
    images: str | None = None,
    classes: Sequence[int | str] | None = None,
    entries: Entries | None = None,
    conditions: list[tuple[str, dict]] | None = None,
    samples: int = 1,
    legend: str | None = None,
    convention: str | None = None,
    known: tuple[str, str] | str | None = None,
    extend: str | None = None,
    seam: int = 0,
    batch_size: int = 16,
    animate: bool = False,
    overwrite: bool = False,
    shard: str | None = None,
    form: Form = "png",
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
        classes: class numbers, or names that the checkpoint knows.
        entries: text, boxes, depth, edges_of, low_res, style; of two conditions each with each.
        conditions: (name, `conditions.metadata_of` an item) of each picture, instead of files.
        samples: of each condition.
        legend: a file with names and colours of the masks, if not those of the checkpoint.
        convention: of the numbers in masks: ade20k, coco-stuff, cityscapes.
        known: a picture, and which part of it stays, to the bit: a mask file, top, bottom, left,
            right, top:0.3, label:water, not:label:water; just the picture with `extend`.
        extend: by how many pixels the known picture is continued: right:64, or left:32,right:32.
        seam: pixels over which what stays is blended into what is drawn.
        animate: also write a GIF of each picture growing.
        overwrite: draw again what is in OUT with other settings.
        shard: "i/n": of n such commands this is number i, see `share_of_process`.
        form: shards: tars of PNG instead of a file for each; uint8: tars of PPM.
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
    Sampling.of(sampling, **changes)  # before what takes time
    check_seam(seam)
    share, out = share_of_process(shard), Path(out)
    model = second_stage_of(checkpoint, config, allow).to(share.device)
    sampling = Sampling.of(sampling or model.card.settings(), **changes).seeded()
    # What auto means here is written down, so that another processor draws the same
    sampling = replace(sampling, precision=resolved(sampling.precision, share.device))
    if sampling.guides:
        model.check_guidance(sampling)

    # 2. what is to be drawn; layouts of a size that does not fit into memory are not even made
    words = _known_words(known, extend)
    part = read_known(words, legend_of(model)) if words else None
    if part and not sampling.size:
        sampling = replace(sampling, size=part.size)
    if sampling.size:
        check_memory(model, {}, sampling, 1, animate, part is not None)
    if conditions is None:
        reading = Reading(legend, convention, part)
        conditions = conditions_of(model, out, sampling, masks, images, classes, reading, entries)
    jobs = jobs_of(out, conditions, samples)
    record = record_of(checkpoint, config, words, share.device.type, sampling, seam)
    _check_inputs_stay(jobs, record)
    _check_sheet(out)
    make_writable(out)

    if form != "png":
        return _draw_shards(model, jobs, record, part, batch_size, out, share, form)

    # 3. this process's share, which must not depend on what others have drawn by now
    mine = jobs[share.rank :: share.world]
    missing = [job for job in mine if not _is_done(job, record, animate, overwrite)]
    if len(missing) < len(mine):
        print(
            f"{len(mine) - len(missing)} of {len(mine)} pictures are there already", file=sys.stderr
        )

    # 4. the pictures, and the sheet by whoever comes last
    _draw_all(model, missing, record, part, batch_size, animate)
    return write_sheet(model, jobs, sampling, out) if _all_there(jobs) else out


def _known_words(known: tuple[str, str] | str | None, extend: str | None) -> tuple[str, str] | None:
    """The known picture, and what of it stays."""
    if extend is None:
        return known if not isinstance(known, str) else _refuse_half(known)
    picture = known if isinstance(known, str | Path) else known and known[0]
    if not picture:
        raise UserError(f"--extend {extend} needs --known IMAGE, the picture that is continued")
    return str(picture), f"{EXTEND}{extend}"


def _refuse_half(picture: str) -> NoReturn:
    raise UserError(f"known '{picture}': say what of it stays, for example top, or extend it")


def _batches(jobs: list[Job], batch_size: int) -> list[list[Job]]:
    """Of pictures of one size each, in the jobs' order."""
    batches: list[list[Job]] = []
    size = None
    for job in jobs:
        before, size = size, layout_size(job.condition)
        if not batches or len(batches[-1]) == batch_size or size != before:
            batches.append([])
        batches[-1].append(job)
    return batches


def _draw_all(
    model: SecondStage,
    jobs: list[Job],
    record: Record,
    known: KnownPart | None,
    batch_size: int,
    animate: bool,
    store: "Store | None" = None,
) -> None:
    sampling, done = record.sampling, 0
    batches = _batches(jobs, batch_size)
    for part in {layout_size(part[0].condition): part for part in batches}.values():
        first = batch_of(model, part[0].condition, sampling)
        together = min(batch_size, len(jobs))
        check_memory(model, first, sampling, together, animate, known is not None)
    start = time.perf_counter()
    for part in batches:
        batch = joined(model, part, sampling)
        frames = Frames(model, batch) if animate else None
        tensors = known.tensors(batch, len(part)) if known else None
        pictures = draw_batch(model, part, batch, sampling, tensors, frames).cpu()
        if known:
            pictures = pasted(pictures, known, batch, record.seam or 0)
        record = replace(record, batch=len(part), threads=torch.get_num_threads())
        for row, (job, picture) in enumerate(zip(part, pictures)):
            (store or _save)(job, picture, _of_job(record, job, row).metadata())
        height, width = pictures.shape[-2:]
        if frames:
            frames.write([job.path.with_suffix(".gif") for job in part], (height, width))
        codes = (height // model.first_stage.stride) * (width // model.first_stage.stride)
        done += len(part)
        _print_progress(done, len(jobs), time.perf_counter() - start, codes)


def _draw_shards(
    model: SecondStage,
    jobs: list[Job],
    record: Record,
    known: KnownPart | None,
    batch_size: int,
    out: Path,
    share: Share,
    form: Form,
) -> Path:
    def draw(part: list[Job], store: Store) -> None:
        _draw_all(model, part, record, known, batch_size, animate=False, store=store)

    return draw_shards(jobs, record, draw, out, share, form)


def _save(job: Job, picture: Tensor, metadata: dict[str, Any]) -> None:
    images.save(picture, job.path, metadata)


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
    inputs = [*record.files()]
    for job in jobs:
        inputs += [job.condition["image"]] if "image" in job.condition else []
        inputs += job.condition.get("pictures", {}).values()
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
