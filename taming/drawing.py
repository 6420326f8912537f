"""Folders of pictures from models: samples with their contact sheet, and reconstructions."""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from taming import checkpoint, images
from taming.data.folder import found
from taming.data.transforms import View, mask_to_tensor, read_image, read_mask, to_tensor
from taming.errors import UserError
from taming.first_stage.interface import FirstStage, pad_to_multiple
from taming.second_stage.model import SecondStage

SHEET_ROWS = 24


def sample_folder(
    path: str,
    out: str | Path,
    *,
    yaml: str | None = None,
    masks: str | None = None,
    pictures: str | None = None,
    classes: list[int] | None = None,
    size: tuple[int, int] | None = None,
    n: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    **settings,
) -> Path:
    """Writes OUT/NAME-K.png for each condition and sample, and OUT/sheet.png with the conditions on the left; returns the sheet's path."""
    model = checkpoint.load(path, yaml, stage="second")
    out = Path(out)
    checkpoint.make_writable(out)
    stride = model.first_stage.stride
    trained = (model.prior.grid[0] * stride, model.prior.grid[1] * stride)
    size = size or trained
    model.first_stage.grids(*size)
    if size[0] > trained[0] or size[1] > trained[1]:
        raise UserError(f"--size {size[0]}x{size[1]}: this prior was trained at {trained[0]}x{trained[1]} and draws nothing larger yet; leave --size out")
    conditions = _conditions(model, masks, pictures, classes, size)
    jobs = [(name, k, batch) for name, batch in conditions for k in range(n)]
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, len(jobs), batch_size):
        part = jobs[start : start + batch_size]
        batch = {key: torch.cat([job[2][key] for job in part]) for key in part[0][2]}
        drawn = model.sample(batch, size, seed=seed, first=start, **settings)
        for (name, k, own), image in zip(part, drawn):
            images.save(image, out / f"{name}-{k}.png")
            if name not in columns:
                shown = model.conditioner.picture(own)
                columns[name] = [] if shown is None else [shown[0]]
            columns[name].append(image)
        print(f"{min(start + batch_size, len(jobs))} of {len(jobs)} pictures", file=sys.stderr)
    rows = list(columns.values())[:SHEET_ROWS]
    if len(rows) == 1:
        images.save(images.sheet(torch.stack(rows[0]), columns=min(8, len(rows[0]))), out / "sheet.png")
    else:
        images.save(images.grid([torch.stack(column) for column in zip(*rows)]), out / "sheet.png")
    return out / "sheet.png"


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


@torch.no_grad()
def _reconstruct(model: FirstStage, picture: Path, target: Path) -> float:
    """Any size: padded to a multiple of the stride, and cropped back."""
    is_mask = model.key == "segmentation"
    original = (mask_to_tensor(read_mask(picture)) if is_mask else to_tensor(read_image(picture)))[None]
    height, width = original.shape[-2:]
    padded = pad_to_multiple(original, model.stride)
    decoded = model.decode(model.encode(padded))[..., :height, :width]
    if is_mask:
        labels = decoded.argmax(dim=1)
        images.save(Image.fromarray(labels[0].byte().numpy()), target)
        return float((labels == original).float().mean())
    images.save(decoded[0], target)
    return float(10 * torch.log10(4 / (decoded.clamp(-1, 1) - original).square().mean().clamp(min=1e-10)))


def _conditions(model: SecondStage, masks: str | None, pictures: str | None, classes: list[int] | None, size: tuple[int, int]) -> list[tuple[str, dict]]:
    """(name, batch of one) for everything that pictures are asked for."""
    wanted = getattr(model.conditioner, "key", None)
    given = "segmentation" if masks else "image" if pictures else "class" if classes else None
    flags = {"segmentation": "--masks DIR", "image": "--images DIR", "class": "--classes A,B", None: "no --masks, --images or --classes"}
    if given != wanted:
        raise UserError(f"this prior is conditioned on '{wanted}', so it needs {flags.get(wanted, wanted)}; {flags[given]} was given")
    view = View(size, flip=False, upscale=True)
    if masks:
        return [
            (name, {"segmentation": mask_to_tensor(_fitted(read_mask(path, model.conditioner.first_stage.labels), view, mask=True))[None]})
            for name, path in _files(masks)
        ]
    if pictures:
        return [(name, {"image": to_tensor(_fitted(read_image(path), view, mask=False))[None]}) for name, path in _files(pictures)]
    if classes:
        return [(f"class{c}", {"class": torch.tensor([c])}) for c in classes]
    return [("sample", {"count": torch.ones(1)})]


def _files(path: str) -> list[tuple[str, Path]]:
    """A file, or every picture under a folder, with the name that its results get."""
    if Path(path).is_file():
        return [(Path(path).stem, Path(path))]
    if not Path(path).is_dir():
        raise UserError(f"folder '{path}' does not exist")
    return _named(found(Path(path), path), Path(path))


def _named(paths: list[Path], folder: Path) -> list[tuple[str, Path]]:
    """Paths in `folder` without their endings; where two would be one, with them."""
    stems = [p.relative_to(folder).with_suffix("").as_posix() for p in paths]
    return [(stem if stems.count(stem) == 1 else p.relative_to(folder).as_posix(), p) for stem, p in zip(stems, paths)]


def _fitted(picture: Image.Image, view: View, mask: bool) -> Image.Image:
    box, flipped = view.box(*picture.size, 0, None, "")
    return view.mask(picture, box, flipped) if mask else view.image(picture, box, flipped)
