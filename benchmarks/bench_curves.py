"""What training looks like: a small VQ-GAN and a prior on its codes, three seeds each, drawn
landscapes of 32 px. Writes the curves, as training logged them, to docs/curves.json, from which
plot_figures.py makes the plots of docs/troubleshooting.md.

    python benchmarks/bench_curves.py --folder runs/curves

About a quarter of a minute of one core for each stage and seed. Runs that are finished stay as they
are.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from taming import config  # noqa: E402
from taming.evaluation.metrics import read_metrics  # noqa: E402
from taming.files import write_atomically  # noqa: E402
from taming.training import run as runs  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / "docs"
CONFIGS = {"first": "drawn_vqgan_64", "second": "drawn_unconditional_32"}
OFTEN = (
    "trainer.max_steps=240",
    "trainer.validate_every=20",
    "trainer.checkpoint_every=240",
    "trainer.pictures_every=240",
)
OVERRIDES = {
    "first": (*OFTEN, "variables.size=32"),
    "second": (
        *OFTEN,
        "trainer.validation_batches=4",
        "data.train.params.count=1000",
        "model.params.first_stage.params.checkpoint=FIRST",
        "model.params.first_stage.params.config=drawn_vqgan_64",
    ),
}
NAMES = {
    "first": (
        "train/l1",
        "train/quantizer",
        "train/discriminator",
        "train/adaptive_weight",
        "validation/l1",
        "validation/psnr",
        "validation/used",
        "validation/perplexity",
    ),
    "second": ("train/nll", "validation/nll", "validation/unigram"),
}


def train(stage: str, folder: Path, first: Path, seed: int) -> None:
    overrides = [words.replace("FIRST", str(first)) for words in OVERRIDES[stage]]
    experiment = config.load(CONFIGS[stage], [*overrides, f"seed={seed}"])
    runs.train(experiment, folder)


def curves(folder: Path, names: tuple[str, ...]) -> dict[str, list[list[float]]]:
    """[batch, value] of each name, to five digits."""
    rows = read_metrics(folder / "metrics.csv")
    return {
        name: [[batch, float(f"{value:.5g}")] for batch, key, value in rows if key == name]
        for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/curves"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    values: dict[str, dict] = {stage: {} for stage in CONFIGS}
    for seed in range(arguments.seeds):
        first = arguments.folder / f"first_{seed}"
        for stage in CONFIGS:
            folder = arguments.folder / f"{stage}_{seed}"
            if not (folder / "checkpoints" / "last.ckpt").is_file():
                train(stage, folder, first, seed)
            values[stage][str(seed)] = curves(folder, NAMES[stage])
    commands = {
        stage: " ".join(("taming train -b", CONFIGS[stage], *OVERRIDES[stage], "-s SEED"))
        for stage in CONFIGS
    }
    source = "benchmarks/bench_curves.py; [batch, value] by seed and name"
    text = json.dumps({"source": source, "commands": commands, **values}, separators=(",", ":"))
    for group in ("train/", "validation/"):
        text = text.replace(f'"{group}', f'\n"{group}')
    write_atomically(DOCS / "curves.json", lambda file: file.write_text(text + "\n"))


if __name__ == "__main__":
    main()
