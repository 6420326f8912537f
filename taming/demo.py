"""The main job in minutes: VQ-GAN and prior on drawn landscapes, then samples from layouts that
were not trained on, and a report.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from taming import config, images
from taming.config.experiment import Experiment
from taming.data import DrawnLandscapes
from taming.errors import UserError
from taming.evaluation import report
from taming.files import write_atomically
from taming.formats.load import load, read_checkpoint
from taming.second_stage.model import SecondStage
from taming.training import run as runs
from taming.training.callbacks import Interrupted

CONFIGS = {"vqgan": "drawn_landscapes_vqgan_64", "gpt": "drawn_landscapes_gpt_64"}
QUICK = [
    "trainer.max_steps=4",
    "trainer.validate_every=4",
    "trainer.validation_batches=1",
    "data.batch_size=2",
    "variables.count=12",
]
TOP_P, GUIDANCE = 0.9, 2.0


def run(out: str | Path, quick: bool = False) -> Path:
    """Runs both trainings into OUT/vqgan and OUT/gpt (one that is finished stays as it is), prints
    what to do next, and returns the path of the report.
    """
    out = Path(out)
    started = time.monotonic()
    experiments = [_train(name, out, quick) for name in CONFIGS]
    model = load(out / "gpt", stage="second")
    assert isinstance(model, SecondStage)
    sections = [
        _samples(model, quick),
        _reconstructions(model),
        *_curves(out),
        report.surroundings(experiments[-1].seed, time.monotonic() - started),
    ]
    title = "Landscapes from layouts: both stages on drawn scenes"
    path = report.write(out / "report.html", title, sections)
    write_layouts(out / "layouts")
    print(next_steps(out), file=sys.stderr)
    return path


def next_steps(out: Path) -> str:
    """What a person may want to do with the runs."""
    return (
        f"Open '{out / 'report.html'}' in a browser. What you can do next:\n"
        f"  taming sample {out / 'gpt'} --masks {out / 'layouts'} -n 4 -o {out / 'samples'}\n"
        "      more samples of these layouts, or of your own: label maps as 8-bit PNG\n"
        f"  taming doctor {out / 'gpt'}\n"
        "      what this prior has learned, and what it has not\n"
        "  taming configs\n"
        "      the configurations to start from with your own pictures: taming train -b NAME"
    )


def write_layouts(folder: Path, count: int = 4) -> None:
    """Layouts that no training saw, as the label maps that `taming sample --masks` reads."""
    for number, mask in enumerate(_held_out("segmentation", count)):
        layout = Image.fromarray(mask.numpy().astype(np.uint8))
        write_atomically(
            folder / f"{number}.png", lambda file, layout=layout: layout.save(file, "PNG")
        )


def _train(name: str, out: Path, quick: bool) -> Experiment:
    overrides = [f"variables.runs={out}", f"data.cache={out / 'cache'}"]
    experiment = config.load(CONFIGS[name], [*overrides, *(QUICK if quick else [])])
    folder = out / name
    batches = _batches(folder, out, experiment)
    if batches >= experiment.trainer.max_steps:
        print(f"{name}: trained already, in {folder}", file=sys.stderr)
        return experiment
    print(f"{name}: training in {folder}", file=sys.stderr)
    try:
        runs.train(experiment, folder, resume=batches > 0)
    except Interrupted as stop:
        stop.args = (f"stopped, and saved. Resume with: taming demo -o {out}",)
        raise
    return experiment


def _batches(folder: Path, out: Path, experiment: Experiment) -> int:
    """What an earlier demo has done of this training."""
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        return 0
    content = read_checkpoint(checkpoint)
    before = config.from_plain(content.config, str(checkpoint), trusted=False)
    if (before.variables, before.trainer) != (experiment.variables, experiment.trainer):
        raise UserError(
            f"'{folder}' holds a demo with other settings; remove '{out}', or choose another folder"
            " with -o"
        )
    return content.batches


def _curves(out: Path) -> list[report.Section]:
    """The losses and pictures of the runs."""
    return [
        report.run_section(
            "Prior",
            out / "gpt",
            "Cross-entropy per code, beside the entropy that a prior would reach which sees nothing"
            " (unigram). Pictures: layout, reconstruction, two samples.",
            [("train/nll", "validation/nll", "validation/unigram")],
        ),
        report.run_section(
            "VQ-GAN",
            out / "vqgan",
            "used: share of codes in use in the whole validation set. Pictures: input,"
            " reconstruction.",
            [
                ("train/l1", "validation/l1"),
                ("train/colour", "validation/colour"),
                ("train/used", "validation/used"),
                ("train/discriminator", "train/adaptive_weight"),
            ],
        ),
    ]


def _held_out(key: str, count: int) -> torch.Tensor:
    """Images or masks of a seed that no training saw."""
    scenes = DrawnLandscapes(64, 1000, seed=77)
    return torch.stack([scenes[index][key] for index in range(count)])


def _samples(model: SecondStage, quick: bool) -> report.Section:
    batch = {"segmentation": _held_out("segmentation", 2 if quick else 12)}
    layout, legend = model.conditioner.picture(batch), model.card.legend(model.conditioner.labels)
    columns = [] if layout is None else [layout]
    for seed in (0, 1, 2):
        columns.append(model.sample(batch, seed=seed, top_p=TOP_P, guidance=GUIDANCE))
    half = len(batch["segmentation"]) // 2
    columns = [column[:half] for column in columns] + [column[half:] for column in columns]
    return report.Section(
        "Samples",
        "Each layout, which no training saw, and three samples (guidance"
        f" {GUIDANCE:g}, top-p {TOP_P:g}, seeds 0, 1, 2).",
        [("layout, sample, sample, sample", images.montage(columns, scale=2))],
        legend=list(zip(legend.names, legend.colours)) if legend else (),
    )


@torch.no_grad()
def _reconstructions(model: SecondStage) -> report.Section:
    image = _held_out("image", 6)
    output = model.decode(model.first_stage.encode(image))
    columns = [image[:3], output[:3], image[3:], output[3:]]
    return report.Section(
        "Reconstructions",
        "What the codes preserve of a picture: the limit of any sample.",
        [("picture, reconstruction", images.montage(columns, scale=2))],
    )
