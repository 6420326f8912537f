"""Folders of pictures from models: samples with their contact sheet, and reconstructions."""

import base64
import hashlib
import io
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming import __version__, checkpoint, images
from taming.data.depth import read_depth, spread
from taming.data.folder import found
from taming.data.transforms import EXTENSIONS, View, mask_to_tensor, read_image, read_mask, to_tensor
from taming.errors import UserError
from taming.first_stage.interface import Autoencoder, Codes, FirstStage, pad_to_multiple
from taming.second_stage.model import SecondStage
from taming.second_stage.rejection import class_score, judged
from taming.second_stage.sampling import check_filters
from taming.second_stage.window import CACHE_LIMIT, TILE, cache_bytes, origin

SHEET_ROWS = 24
FRAMES = 32  # of an animation, at most


@dataclass
class Settings:
    """What a sample depends on, beside checkpoint, condition and number."""

    size: tuple[int, int] | None = None
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    guidance: float = 1.0
    hop: int = 1  # of the windows of large pictures
    accept: float = 1.0  # rejection sampling: the share of pictures kept
    classifier: str | None = None

    def drawing(self) -> dict:
        """The keywords of SecondStage.sample."""
        return {name: getattr(self, name) for name in ("seed", "temperature", "top_k", "top_p", "min_p", "guidance", "hop")}


@dataclass
class Job:
    """One picture to be: its place among all, its file, what a PNG keeps of its condition, and what makes the batch of one out of that: layouts of a large
    folder are not all held at once.
    """

    number: int
    path: Path
    told: dict
    make: Callable[[], dict]

    @property
    def batch(self) -> dict:
        return self.make()


def sample_folder(
    path: str,
    out: str | Path,
    settings: Settings,
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
    """Writes OUT/NAME-K.png for each condition and sample, and OUT/sheet.png with the conditions on the left; returns the sheet's path.

    Each PNG holds what it takes to draw it again. Pictures that are there already, with the same settings, are not drawn again; others are not overwritten
    unless asked. conditions: (name, what `told_of` says) of each picture, instead of files. Under torchrun
    each process draws its share, on its own GPU where there are some.
    """
    if settings.temperature:
        check_filters(settings.temperature, settings.top_k, settings.top_p, settings.min_p)
    model = checkpoint.load(path, yaml, stage="second")
    if settings.guidance != 1:
        model.check_guidance()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    model.to(device)
    out = Path(out)
    checkpoint.make_writable(out)
    kept = _known(known) if known else None
    if kept and not settings.size:
        settings.size = tuple(kept[0].shape[-2:])
    stamp = {
        "checkpoint": str(path),
        "sha256": file_hash(checkpoint.find(path)),
        "config": yaml and [str(yaml), file_hash(Path(yaml))],
        "known": known and [[str(k), file_hash(Path(k)) if Path(k).is_file() else ""] for k in known],
        "device": device.type,
        "version": __version__,
        "torch": torch.__version__,
        **asdict(settings),
    }
    if settings.size:
        check_memory(model, {}, settings, 1, animate)  # even one, before layouts of that size are made
    if conditions is None:
        conditions = _conditions(model, out, settings, masks, pictures, classes)
    jobs = _jobs(model, out, settings, conditions, n)
    mine = [job for job in jobs[rank::world] if not _is_done(job, stamp, overwrite, animate)]  # a share must not depend on what others have drawn by now
    if len(mine) < len(jobs[rank::world]):
        print(f"{len(jobs[rank::world]) - len(mine)} of {len(jobs[rank::world])} pictures are there already", file=sys.stderr)
    batch_size = min(batch_size, max(1, len(mine)))
    if mine:
        check_memory(model, jobs[0].batch, settings, batch_size, animate)
    start = time.perf_counter()
    for done in range(0, len(mine), batch_size):
        part = mine[done : done + batch_size]
        for job, image, row in _drawn(model, part, settings, kept, device, animate):
            images.save(image, job.path, {**stamp, **job.told, "number": job.number, "batch": len(part), "row": row, "threads": torch.get_num_threads()})
        _tell(done + len(part), len(mine), time.perf_counter() - start, image.shape[-2:], model.first_stage.stride)
    if all(job.path.is_file() for job in jobs):
        return _sheet(model, jobs, out)
    return out


def sample_again(png: str | Path, out: str | Path, overwrite: bool = False) -> Path:
    """Draws the picture in a PNG of ours once more, with what it keeps about itself; to the bit on the same machine and versions. Returns its path."""
    about = images.read_about(png)
    if about is None or "checkpoint" not in about:
        raise UserError(f"'{png}' does not say how it was drawn; only PNGs that taming sample wrote do")
    target = Path(out) / f"{Path(png).stem}.png"
    if target.is_file() and (not overwrite or target.resolve() == Path(png).resolve()):
        raise UserError(f"'{target}' is there already; choose another folder with -o")
    files = [[str(checkpoint.find(about["checkpoint"])), about["sha256"]], about["config"], *(about["known"] or []), about.get("image")]
    for name, expected in [file for file in files if file and file[1]]:
        if not Path(name).is_file() or file_hash(Path(name)) != expected:
            raise UserError(f"'{name}' is not the file any more that '{png}' was drawn with (its hash was {expected})")
    if about["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError(f"'{png}' was drawn on a GPU, and torch sees none here")
    torch.set_num_threads(about["threads"])
    model = checkpoint.load(about["checkpoint"], about["config"] and about["config"][0], stage="second").to(about["device"])
    settings = Settings(**{name: about[name] for name in Settings.__dataclass_fields__ if name in about})  # older pictures know fewer
    if settings.size:
        settings.size = tuple(settings.size)
    kept = _known([name for name, _ in about["known"]]) if about["known"] else None
    job = Job(about["number"], target, {}, partial(_told_batch, model, about, settings))
    drawn = _drawn(model, [job] * about["batch"], settings, kept, torch.device(about["device"]), False)
    (image,) = [image for _, image, row in drawn if row == about["row"]]
    checkpoint.make_writable(Path(out))
    images.save(image, target, about)
    return target


def _drawn(model: SecondStage, part: list[Job], settings: Settings, kept: tuple | None, device: torch.device, animate: bool):
    """(job, picture, row in the batch) for each of a batch."""
    batches = [job.batch for job in part]
    batch = {key: torch.cat([one[key] for one in batches]).to(device) for key in batches[0]}
    how = {"known": tuple(k.expand(len(part), *k.shape[1:]).to(device) for k in kept)} if kept else {}
    frames = Frames(model, part, batch) if animate else None
    numbers = [job.number for job in part]
    if settings.accept < 1:
        score = class_score(settings.classifier, batch["class"].to(device))
        drawn = judged(model, batch, score, settings.accept, size=settings.size, first=numbers, **settings.drawing(), **how)
    else:
        drawn = model.sample(batch, settings.size, first=numbers, on_row=frames, **settings.drawing(), **how)
    for row, (job, image) in enumerate(zip(part, drawn.cpu())):
        yield job, image, row
    if frames:
        frames.write(drawn)


class Frames:
    """The picture growing: every few rows of codes are decoded, and what is still to come shows the condition, or grey."""

    def __init__(self, model: SecondStage, part: list[Job], batch: dict):
        self.model, self.part, self.frames = model, part, []
        shown = model.conditioner.picture(batch)
        self.behind = None if shown is None else shown.cpu()

    def __call__(self, codes: Codes, rows: int) -> None:
        every = -(-codes[-1].shape[1] // FRAMES)
        if rows % every and rows != codes[-1].shape[1]:
            return
        done = rows * self.model.first_stage.stride
        picture = self.model.decode(codes).cpu()
        ground = torch.zeros_like(picture) if self.behind is None else torch.nn.functional.interpolate(self.behind, picture.shape[-2:])
        self.frames.append(torch.cat([picture[..., :done, :], ground[..., done:, :]], dim=-2))

    def write(self, drawn: Tensor) -> None:
        height, width = drawn.shape[-2:]
        for row, job in enumerate(self.part):
            images.save_film([images.to_pil(frame[row, :, :height, :width]) for frame in self.frames], job.path.with_suffix(".gif"))


def check_memory(model: SecondStage, batch: dict, settings: Settings, batch_size: int, animate: bool = False) -> None:
    """Raises UserError where a batch would need more than there is, before anything is drawn: keys and values, pictures, and the largest maps of the networks
    that read the condition whole and write the picture in tiles. An estimate, rather too large than too small.
    """
    (height, width), stride = _size(model, batch, settings), model.first_stage.stride
    grid = (-(-height // stride), -(-width // stride))
    passes = batch_size * (2 if settings.guidance != 1 else 1)
    prior = model.priors[-1]
    columns = len({origin(j, grid[1], prior.grid[1]) for j in range(grid[1])})
    one = cache_bytes(prior, passes, prior.grid)
    reader = getattr(model.conditioner, "first_stage", None)
    told = (
        4 * (reader.in_channels + 4 * reader.encoder.conv_in.out_channels) * height * width * batch_size
        if hasattr(getattr(reader, "encoder", None), "conv_in")
        else 0
    )
    tile = min(height, TILE * stride) * min(width, TILE * stride)
    channels = max(model.first_stage.last_layer.shape[:2])  # transposed convolutions have inputs first
    shown = 4 * height * width * batch_size * 3 * (3 + (FRAMES if animate else 0))
    needed, free = max(one, min(columns * one, CACHE_LIMIT)) + told + 4 * 6 * channels * tile + shown, _free_memory()
    if needed > free:
        raise UserError(
            f"size {height}x{width} in batches of {batch_size} needs about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
            "take a smaller --size or --batch-size"
        )


def _free_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")  # systems that do not say


def _size(model: SecondStage, batch: dict, settings: Settings) -> tuple[int, int]:
    shown = batch.get(getattr(model.conditioner, "key", None))
    return settings.size or (tuple(shown.shape[-2:]) if isinstance(shown, Tensor) and shown.ndim >= 3 else model.trained_size)


def _is_done(job: Job, stamp: dict, overwrite: bool, animate: bool) -> bool:
    if not job.path.is_file() or overwrite:
        return False
    about = images.read_about(job.path)
    wanted = _as_json({**stamp, **job.told, "number": job.number})
    if about is not None and {k: about.get(k) for k in wanted} == wanted:
        return not animate or job.path.with_suffix(".gif").is_file()
    raise UserError(f"'{job.path}' is there already and was drawn otherwise; choose another folder with -o, or say --overwrite")


def _as_json(value: dict) -> dict:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()}


def _tell(done: int, total: int, seconds: float, size, stride: int) -> None:
    rate = done / seconds
    tokens = rate * (size[0] // stride) * (size[1] // stride)
    print(f"{done} of {total} pictures, {rate:.2g} pictures/s, {tokens:.0f} tokens/s, {(total - done) / rate:.0f} s left", file=sys.stderr)


def _sheet(model: SecondStage, jobs: list[Job], out: Path) -> Path:
    columns: dict[str, list[Tensor]] = {}
    for job in jobs:
        name = job.path.as_posix().rsplit("-", 1)[0]
        if name not in columns and len(columns) == SHEET_ROWS:
            break
        if name not in columns:
            shown = model.conditioner.picture(job.batch)
            columns[name] = [] if shown is None else [shown[0].cpu()]
        columns[name].append(to_tensor(Image.open(job.path).convert("RGB")))
    rows = list(columns.values())
    if len(rows) == 1:
        picture = images.sheet(torch.stack([_padded(p, rows[0]) for p in rows[0]]), columns=min(8, len(rows[0])))
    else:
        everything = [p for row in rows for p in row]
        picture = images.grid([torch.stack([_padded(p, everything) for p in column]) for column in zip(*rows)])
    images.save(picture, out / "sheet.png")
    return out / "sheet.png"


def _padded(picture: Tensor, others: list[Tensor]) -> Tensor:
    """White below and beside, to the size of the largest."""
    height, width = (max(p.shape[axis] for p in others) for axis in (-2, -1))
    return torch.nn.functional.pad(picture, (0, width - picture.shape[-1], 0, height - picture.shape[-2]), value=1.0)


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _known(names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """A picture (1, 3, H, W) and which of its pixels stay (1, H, W): a mask file, where not black; or top, left, top:0.3, ..."""
    picture, mask = names
    image = to_tensor(read_image(Path(picture)))[None]
    height, width = image.shape[-2:]
    side, _, share = mask.partition(":")
    if side in ("top", "left"):
        try:
            part = float(share or 0.5)
        except ValueError:
            part = math.nan
        if not 0 <= part <= 1:
            raise UserError(f"--known-mask {mask}: '{share}' is not a share such as 0.5")
        kept = torch.zeros(1, height, width, dtype=torch.bool)
        if side == "top":
            kept[:, : round(part * height)] = True
        else:
            kept[:, :, : round(part * width)] = True
        return image, kept
    kept = torch.from_numpy(np.array(read_image(Path(mask)).convert("L")))[None] > 0
    if kept.shape[1:] != image.shape[-2:]:
        raise UserError(f"--known-mask '{mask}' is {kept.shape[2]}x{kept.shape[1]}, but --known '{picture}' is {width}x{height}; make them equal")
    return image, kept


def reconstruct_folder(path: str, folder: str | Path, out: str | Path, yaml: str | None = None) -> str:
    """Writes OUT/NAME.png for each picture under `folder`; returns a line with the mean PSNR (or the share of right labels)."""
    model = checkpoint.load(path, yaml)
    model = model.first_stage if isinstance(model, SecondStage) else model
    if not Path(folder).is_dir():
        raise UserError(f"picture folder '{folder}' does not exist")
    if Path(folder).resolve() in (Path(out).resolve(), *Path(out).resolve().parents):
        raise UserError(f"-o {out} lies in the picture folder '{folder}', where results could overwrite pictures; choose another")
    checkpoint.make_writable(Path(out))
    scores = []
    for name, picture in _named(found(Path(folder), folder), Path(folder)):
        scores.append(_reconstruct(model, picture, Path(out) / f"{name}.png"))
    unit = "dB PSNR" if model.key != "segmentation" else "of the labels right"
    return f"{len(scores)} pictures in '{out}': {sum(scores) / len(scores):.4g} {unit} on average"


def encode_folder(path: str, folder: str | Path, out: str | Path, yaml: str | None = None) -> str:
    """Writes the codes of each picture under `folder`, padded to what the strides divide, into OUT (.npz); returns a line that says so."""
    model = checkpoint.load(path, yaml)
    model = model.first_stage if isinstance(model, SecondStage) else model
    if not isinstance(model, FirstStage):
        raise UserError(f"'{path}' is a {type(model).__name__}, which has no codes")
    if not Path(folder).is_dir():
        raise UserError(f"picture folder '{folder}' does not exist")
    codes = {}
    for name, picture in _named(found(Path(folder), folder), Path(folder)):
        original = mask_to_tensor(read_mask(picture)) if model.key == "segmentation" else to_tensor(read_image(picture))
        levels = model.encode(pad_to_multiple(original[None], model.multiple))
        codes |= {name if len(levels) == 1 else f"{name}/{i}": level[0].to(torch.int32).numpy() for i, level in enumerate(levels)}

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez_compressed(stream, **codes)

    images.written(out, write)
    return f"codes of {len(codes) // len(model.num_codes)} pictures in '{out}', from 0 to {', '.join(str(n - 1) for n in model.num_codes)}"


@torch.no_grad()
def _reconstruct(model: Autoencoder, picture: Path, target: Path) -> float:
    """Any size: padded to a multiple of the stride, and cropped back."""
    is_mask = model.key == "segmentation"
    original = (mask_to_tensor(read_mask(picture)) if is_mask else to_tensor(read_image(picture)))[None]
    height, width = original.shape[-2:]
    padded = pad_to_multiple(original, model.multiple)
    decoded = model.reconstruct(padded)[..., :height, :width]
    if is_mask:
        labels = decoded.argmax(dim=1)
        images.save(Image.fromarray(labels[0].byte().numpy()), target)
        return float((labels == original).float().mean())
    images.save(decoded[0], target)
    return float(10 * torch.log10(4 / (decoded.clamp(-1, 1) - original).square().mean().clamp(min=1e-10)))


def _jobs(model: SecondStage, out: Path, settings: Settings, conditions: list[tuple[str, dict]], n: int) -> list[Job]:
    return [
        Job((i << 20) + k, out / f"{name}-{k}.png", told, partial(_told_batch, model, told, settings))
        for i, (name, told) in enumerate(conditions)
        for k in range(n)
    ]


def _conditions(model: SecondStage, out: Path, settings: Settings, masks, pictures, classes) -> list[tuple[str, dict]]:
    """(name, what a PNG keeps of it) for everything that pictures are asked for."""
    for folder in (masks, pictures):
        if folder and Path(folder).is_dir() and Path(folder).resolve() in (out.resolve(), *out.resolve().parents):
            raise UserError(f"-o {out} lies in '{folder}', where samples would be taken for conditions next time; choose another")
    wanted = getattr(model.conditioner, "key", None)
    given = "segmentation" if masks else "image" if pictures else "class" if classes is not None else None
    flags = {"segmentation": "--masks DIR", "image": "--images DIR", "depth": "--images DIR (depth maps)", "class": "--classes A,B"}
    flags[None] = "no --masks, --images or --classes"
    if given != ("image" if wanted == "depth" else wanted):
        raise UserError(f"this prior is conditioned on '{wanted}', so it needs {flags.get(wanted, 'conditions given in Python')}; {flags[given]} was given")
    if masks:
        return [_mask_condition(model, name, read_mask(path, model.conditioner.first_stage.labels), settings) for name, path in _files(masks)]
    if pictures:
        endings = (*EXTENSIONS, ".npy") if wanted == "depth" else EXTENSIONS
        return [(name, {"image": [str(path), file_hash(path)]}) for name, path in _files(pictures, endings)]
    if classes is not None:
        if not classes or len(set(classes)) < len(classes):
            raise UserError(f"--classes {','.join(map(str, classes))}: name each class once, for example 0,3; -n says how many of each")
        for c in classes:
            model.conditioner({"class": torch.tensor([c])})  # refuses classes that the prior does not know
        return [(f"class{c}", {"class": c}) for c in classes]
    return [("sample", {})]


def _mask_condition(model: SecondStage, name: str, mask: Image.Image, settings: Settings) -> tuple[str, dict]:
    """Label maps are brought to the size asked for, by default the trained one, and kept in the PNG."""
    return name, _told_mask(_fitted(mask, _view(model, settings), mask=True))


def _told_mask(mask: Image.Image) -> dict:
    packed = io.BytesIO()
    mask.save(packed, format="PNG", optimize=True)
    return {"segmentation": base64.b64encode(packed.getvalue()).decode()}


def told_of(model: SecondStage, item: dict) -> dict:
    """What a PNG keeps of the condition in an item of a data set."""
    key = getattr(model.conditioner, "key", None)
    if key is None:
        return {}
    if key in ("segmentation", "class") and key not in item:
        raise UserError(f"this prior is conditioned on '{key}', but the pictures to measure on have none; give --samples DIR, or --data DIR that has")
    if key == "segmentation":
        return _told_mask(Image.fromarray(item["segmentation"].to(torch.uint8).numpy()))
    if key == "class":
        return {"class": int(item["class"])}
    raise UserError(f"this prior is conditioned on '{key}'; draw samples with taming sample, and give their folder as --samples DIR")


def _picture_batch(model: SecondStage, path: Path, settings: Settings) -> dict:
    if model.conditioner.key == "depth":
        return {"depth": spread(torch.from_numpy(np.array(_fitted(read_depth(path), _view(model, settings), mask=False)))[None])[None]}
    return {"image": to_tensor(_fitted(read_image(path), _view(model, settings), mask=False))[None]}


def _told_batch(model: SecondStage, about: dict, settings: Settings) -> dict:
    """The batch of one that a PNG of ours was drawn from."""
    if "segmentation" in about:
        return {"segmentation": mask_to_tensor(Image.open(io.BytesIO(base64.b64decode(about["segmentation"]))))[None]}
    if "image" in about:
        return _picture_batch(model, Path(about["image"][0]), settings)
    return {"class": torch.tensor([about["class"]])} if "class" in about else {"count": torch.ones(1)}


def _view(model: SecondStage, settings: Settings) -> View:
    return View(settings.size or model.trained_size, flip=False, upscale=True)


def _files(path: str, endings: tuple[str, ...] = EXTENSIONS) -> list[tuple[str, Path]]:
    """A file, or every picture under a folder, with the name that its results get."""
    if Path(path).is_file():
        return [(Path(path).stem, Path(path))]
    if not Path(path).is_dir():
        raise UserError(f"folder '{path}' does not exist")
    return _named(found(Path(path), path, endings), Path(path))


def _named(paths: list[Path], folder: Path) -> list[tuple[str, Path]]:
    """Paths in `folder` without their endings; where two would be one, with them."""
    stems = [p.relative_to(folder).with_suffix("").as_posix() for p in paths]
    return [(stem if stems.count(stem) == 1 else p.relative_to(folder).as_posix(), p) for stem, p in zip(stems, paths)]


def _fitted(picture: Image.Image, view: View, mask: bool) -> Image.Image:
    box, flipped = view.box(*picture.size, 0, None, "")
    return view.mask(picture, box, flipped) if mask else view.image(picture, box, flipped)
