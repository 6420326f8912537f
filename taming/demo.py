"""The main job in minutes: mask tokenizer, VQ-GAN and prior on drawn landscapes, then samples from
layouts that were not trained on, and a report.
"""

import sys
import time
from pathlib import Path

import torch

from taming import config, images
from taming.config.experiment import Experiment
from taming.data import DrawnLandscapes
from taming.errors import UserError
from taming.evaluation import report
from taming.formats.load import load, read_checkpoint
from taming.training import run as runs
from taming.training.callbacks import Interrupted

CONFIGS = Path(__file__).parent.parent / "configs"
STEPS = (
    ("masks", "first_stage/drawn_masks_64.yaml"),
    ("vqgan", "first_stage/drawn_vqgan_64.yaml"),
    ("gpt", "second_stage/drawn_gpt_64.yaml"),
)
QUICK = [
    "trainer.max_steps=4",
    "trainer.validate_every=4",
    "trainer.validation_batches=1",
    "data.batch_size=2",
    "variables.count=12",
]


def run(out: str | Path, quick: bool = False) -> Path:
    """Runs the three trainings into OUT/masks, OUT/vqgan and OUT/gpt (those that are finished are
    kept), and returns the path of the report.
    """
    out = Path(out)
    started = time.monotonic()
    if not CONFIGS.is_dir():
        raise UserError(
            f"the demo reads its configurations from '{CONFIGS}', which is not there; run it in a"
            " checkout of the project"
        )
    experiments = {}
    for name, file in STEPS:
        experiments[name] = _train(name, file, out, quick)
    model = load(out / "gpt", stage="second")
    sections = [_samples(model, quick), _reconstructions(model)]
    sections.append(
        report.run_section(
            "Prior",
            out / "gpt",
            "Cross-entropy per code, beside the entropy that a prior would reach which sees nothing"
            " (unigram). Pictures: layout, reconstruction, two samples.",
            [("train/nll", "validation/nll", "validation/unigram")],
        )
    )
    sections.append(
        report.run_section(
            "VQ-GAN",
            out / "vqgan",
            "used: share of codes seen in the whole validation set. Pictures: input,"
            " reconstruction.",
            [
                ("train/l1", "validation/l1"),
                ("train/used", "validation/used"),
                ("train/discriminator", "train/adaptive_weight"),
            ],
        )
    )
    sections.append(
        report.run_section(
            "Mask tokenizer",
            out / "masks",
            "accuracy: share of pixels that keep their label. Pictures: layout, reconstruction.",
            [
                ("train/cross_entropy", "validation/cross_entropy"),
                ("train/used", "validation/used"),
            ],
        )
    )
    sections.append(report.surroundings(experiments["gpt"].seed, time.monotonic() - started))
    return report.write(
        out / "report.html", "Landscapes from layouts: both stages on drawn scenes", sections
    )


def _train(name: str, file: str, out: Path, quick: bool) -> Experiment:
    experiment = config.load(
        CONFIGS / file,
        [f"variables.runs={out}", f"data.cache={out / 'cache'}", *(QUICK if quick else [])],
    )
    folder = out / name
    finished = folder / "checkpoints" / "last.ckpt"
    done = 0
    if finished.is_file():
        before = read_checkpoint(finished)
        done = before.batches
        if (
            before.config["variables"] != experiment.variables
            or before.config["trainer"] != config.to_plain(experiment)["trainer"]
        ):
            raise UserError(
                f"'{folder}' holds a demo with other settings; remove '{out}', or choose another"
                " folder with -o"
            )
    if done >= experiment.trainer.max_steps:
        print(f"{name}: trained already, in {folder}", file=sys.stderr)
        return experiment
    print(f"{name}: training in {folder}", file=sys.stderr)
    try:
        runs.train(experiment, folder, resume=done > 0)
    except Interrupted as stop:
        stop.args = (f"stopped; what is done is kept. Go on with: taming demo -o {out}",)
        raise
    return experiment


def _samples(model, quick: bool) -> report.Section:
    """Layouts of a seed that no training saw."""
    held_out = DrawnLandscapes(64, 1000, seed=77)
    batch = {
        "segmentation": torch.stack(
            [held_out[i]["segmentation"] for i in range(2 if quick else 12)]
        )
    }
    drawn = [model.sample(batch, seed=seed, top_k=100, guidance=2.0) for seed in (0, 1, 2)]
    half = len(batch["segmentation"]) // 2
    columns = [
        c[part]
        for part in (slice(0, half), slice(half, None))
        for c in (model.conditioner.picture(batch), *drawn)
    ]
    return report.Section(
        "Samples",
        "Each layout, which no training saw, and three samples (top-k 100, seeds 0, 1, 2).",
        [("layout, sample, sample, sample", images.montage(columns, scale=2))],
    )


@torch.no_grad()
def _reconstructions(model) -> report.Section:
    held_out = DrawnLandscapes(64, 1000, seed=77)
    image = torch.stack([held_out[i]["image"] for i in range(6)])
    again = model.decode(model.first_stage.encode(image))
    return report.Section(
        "Reconstructions",
        "What the codes keep of a picture: the ceiling of any sample.",
        [
            (
                "picture, reconstruction",
                images.montage([image[:3], again[:3], image[3:], again[3:]], scale=2),
            )
        ],
    )
