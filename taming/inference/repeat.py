"""A picture once more, from what its PNG says about itself."""

from functools import partial
from pathlib import Path

import torch

from taming import images
from taming.errors import UserError
from taming.files import file_hash, make_writable
from taming.formats.load import find_checkpoint, load
from taming.inference.conditions import batch_of, read_known
from taming.inference.job import Job
from taming.inference.sample import draw_batch
from taming.second_stage.sampling import Sampling


def sample_again(png: str | Path, out: str | Path, overwrite: bool = False) -> Path:
    """Draws the picture in a PNG of ours once more, with what it keeps about itself; to the bit on
    the same machine and versions. Returns its path.
    """
    about = images.read_about(png)
    if about is None or "checkpoint" not in about:
        raise UserError(
            f"'{png}' does not say how it was drawn; only PNGs that taming sample wrote do"
        )
    target = Path(out) / f"{Path(png).stem}.png"
    if target.is_file() and (not overwrite or target.resolve() == Path(png).resolve()):
        raise UserError(f"'{target}' is there already; choose another folder with -o")
    files = [
        [str(find_checkpoint(about["checkpoint"])), about["sha256"]],
        about["config"],
        *(about["known"] or []),
        about.get("image"),
    ]
    for name, expected in [file for file in files if file and file[1]]:
        if not Path(name).is_file() or file_hash(Path(name)) != expected:
            raise UserError(
                f"'{name}' is not the file any more that '{png}' was drawn with (its hash was"
                f" {expected})"
            )
    if about["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError(f"'{png}' was drawn on a GPU, and torch sees none here")
    torch.set_num_threads(about["threads"])
    model = load(about["checkpoint"], about["config"] and about["config"][0], stage="second").to(
        about["device"]
    )
    # Older pictures know fewer
    settings = Sampling(
        **{name: about[name] for name in Sampling.__dataclass_fields__ if name in about}
    )
    if settings.size:
        settings.size = tuple(settings.size)
    kept = read_known([name for name, _ in about["known"]]) if about["known"] else None
    job = Job(about["number"], target, {}, partial(batch_of, model, about, settings))
    drawn = draw_batch(
        model, [job] * about["batch"], settings, kept, torch.device(about["device"]), False
    )
    (image,) = [image for _, image, row in drawn if row == about["row"]]
    make_writable(Path(out))
    images.save(image, target, about)
    return target
