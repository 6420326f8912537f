"""Folders of pictures from models: samples with their contact sheet, and reconstructions."""

import os
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from taming import __version__, images
from taming.errors import UserError
from taming.files import file_hash, make_writable
from taming.formats.load import find_checkpoint, load
from taming.inference.animation import Frames
from taming.inference.conditions import batch_of, conditions_of, read_known
from taming.inference.job import Job
from taming.inference.memory import check_memory
from taming.inference.sheet import write_sheet
from taming.second_stage.model import SecondStage
from taming.second_stage.rejection import class_score, rejection_sample
from taming.second_stage.sampling import Sampling


def sample_folder(
    path: str,
    out: str | Path,
    settings: Sampling,
    *,
    yaml: str | None = None,
    masks: str | None = None,
    pictures: str | None = None,
    classes: list[int] | None = None,
    known: tuple[str, str] | None = None,
    n: int = 1,
    batch_size: int = 16,
    animate: bool = False,
    overwrite: bool = False,
    conditions: list[tuple[str, dict]] | None = None,
) -> Path:
    """Writes OUT/NAME-K.png for each condition and sample, and OUT/sheet.png with the conditions on
    the left; returns the sheet's path.

    Each PNG holds what it takes to draw it again. Pictures that are there already, with the same
    settings, are not drawn again; others are not overwritten unless asked. conditions: (name, what
    `metadata_of` says) of each picture, instead of files. Under torchrun each process draws its share,
    on its own GPU where there are some.
    """
    settings.check()
    model = load(path, yaml, stage="second")
    if settings.guidance != 1:
        model.check_guidance()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(
        f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    )
    model.to(device)
    out = Path(out)
    make_writable(out)
    kept = read_known(known) if known else None
    if kept and not settings.size:
        settings.size = tuple(kept[0].shape[-2:])
    stamp = {
        "checkpoint": str(path),
        "sha256": file_hash(find_checkpoint(path)),
        "config": yaml and [str(yaml), file_hash(Path(yaml))],
        "known": (
            known and [[str(k), file_hash(Path(k)) if Path(k).is_file() else ""] for k in known]
        ),
        "device": device.type,
        "version": __version__,
        "torch": torch.__version__,
        **asdict(settings),
    }
    if settings.size:
        # Even one, before layouts of that size are made
        check_memory(model, {}, settings, 1, animate)
    if conditions is None:
        conditions = conditions_of(model, out, settings, masks, pictures, classes)
    jobs = jobs_of(model, out, settings, conditions, n)
    # A share must not depend on what others have drawn by now
    mine = [job for job in jobs[rank::world] if not _is_done(job, stamp, overwrite, animate)]
    if len(mine) < len(jobs[rank::world]):
        print(
            f"{len(jobs[rank::world]) - len(mine)} of {len(jobs[rank::world])} pictures are there"
            " already",
            file=sys.stderr,
        )
    batch_size = min(batch_size, max(1, len(mine)))
    if mine:
        check_memory(model, jobs[0].batch, settings, batch_size, animate)
    start = time.perf_counter()
    for done in range(0, len(mine), batch_size):
        part = mine[done : done + batch_size]
        for job, image, row in draw_batch(model, part, settings, kept, device, animate):
            images.save(
                image,
                job.path,
                {
                    **stamp,
                    **job.told,
                    "number": job.number,
                    "batch": len(part),
                    "row": row,
                    "threads": torch.get_num_threads(),
                },
            )
        _tell(
            done + len(part),
            len(mine),
            time.perf_counter() - start,
            image.shape[-2:],
            model.first_stage.stride,
        )
    if all(job.path.is_file() for job in jobs):
        return write_sheet(model, jobs, out)
    return out


def draw_batch(
    model: SecondStage,
    part: list[Job],
    settings: Sampling,
    kept: tuple | None,
    device: torch.device,
    animate: bool,
):
    """(job, picture, row in the batch) for each of a batch."""
    batches = [job.batch for job in part]
    batch = {key: torch.cat([one[key] for one in batches]).to(device) for key in batches[0]}
    how = (
        {"known": tuple(k.expand(len(part), *k.shape[1:]).to(device) for k in kept)} if kept else {}
    )
    frames = Frames(model, part, batch) if animate else None
    numbers = [job.number for job in part]
    if settings.accept < 1:
        score = class_score(settings.classifier, batch["class"].to(device))
        drawn = rejection_sample(model, batch, score, settings, first=numbers, **how)
    else:
        drawn = model.sample(batch, sampling=settings, first=numbers, on_row=frames, **how)
    for row, (job, image) in enumerate(zip(part, drawn.cpu())):
        yield job, image, row
    if frames:
        frames.write(drawn)


def _is_done(job: Job, stamp: dict, overwrite: bool, animate: bool) -> bool:
    if not job.path.is_file() or overwrite:
        return False
    about = images.read_about(job.path)
    wanted = _as_json({**stamp, **job.told, "number": job.number})
    if about is not None and {k: about.get(k) for k in wanted} == wanted:
        return not animate or job.path.with_suffix(".gif").is_file()
    raise UserError(
        f"'{job.path}' is there already and was drawn otherwise; choose another folder with -o, or"
        " say --overwrite"
    )


def _as_json(value: dict) -> dict:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()}


def _tell(done: int, total: int, seconds: float, size, stride: int) -> None:
    rate = done / seconds
    tokens = rate * (size[0] // stride) * (size[1] // stride)
    print(
        f"{done} of {total} pictures, {rate:.2g} pictures/s, {tokens:.0f} tokens/s,"
        f" {(total - done) / rate:.0f} s left",
        file=sys.stderr,
    )


def jobs_of(
    model: SecondStage, out: Path, settings: Sampling, conditions: list[tuple[str, dict]], n: int
) -> list[Job]:
    return [
        Job((i << 20) + k, out / f"{name}-{k}.png", told, partial(batch_of, model, told, settings))
        for i, (name, told) in enumerate(conditions)
        for k in range(n)
    ]
