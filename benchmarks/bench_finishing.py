"""Which loss finishes a decoder best: the shipped decoder trained on, its codes frozen, with one
discriminator or another, each arm for as many batches with each seed; then reconstructions of 258
held-out photographs.

OMP_NUM_THREADS=1 python -m benchmarks.bench_finishing --steps 100 --seeds 3

Rows go to runs/finishing.json as they are made; what is there is not done again. The Frechet
distance is on VGG16, of which the loss reads the first blocks, too; ST-LPIPS is on features that
nothing was trained on.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

VGG = "../shared/weights/vgg16_imagenet_features_fp16.safetensors"
SETS = (
    ("intel_landscapes", "size: 64", ""),
    (
        "stanford_background",
        "size: 64, scale: 2",
        ", same: {road: ground}, labels: [sky, tree, ground, grass, water, building, mountain,"
        " foreground, unknown, snow]",
    ),
    ("landscapes_large", "size: 64, scale: 4", ""),
)


def one_set(name: str, view: str, more: str) -> str:
    return (
        "{target: taming.data.SegmentedImages, params: {root: ../shared/data/"
        f"{name}, list: train.txt, view: {{{view}}}{more}}}}}"
    )


DISCRIMINATOR = "loss.params.discriminator"
FINISHING = [
    *("trainer.freeze_codes=true", "optimizer.learning_rate=3e-4", "optimizer.warmup=10"),
    *("loss.params.adversarial_start=0", "loss.params.adversarial_ramp=20", "trainer.ema=0.97"),
    # With label maps of one meaning, for the discriminator that reads them
    "data.train.params.entries=[image, segmentation]",
    f"data.train.params.sets=[{', '.join(one_set(*each) for each in SETS)}]",
]
ARMS: dict[str, list[str]] = {
    "no discriminator": ["loss.params.adversarial=0", "loss.params.lecam=0"],
    "no discriminator, five blocks": [
        *("loss.params.adversarial=0", "loss.params.lecam=0"),
        "loss.params.perceptual_blocks=5",
    ],
    "no discriminator, five blocks, weight 1": [
        *("loss.params.adversarial=0", "loss.params.lecam=0"),
        *("loss.params.perceptual_blocks=5", "loss.params.perceptual_weight=1"),
    ],
    "patches": [],
    "frozen features": [
        f"{DISCRIMINATOR}={{target: taming.first_stage.ProjectedDiscriminator, params: {{features:"
        f" {VGG}}}}}"
    ],
    "segmenting": [
        f"{DISCRIMINATOR}={{target: taming.first_stage.SegmentingDiscriminator, params: {{labels:"
        " 10}}"
    ],
}
FIGURES = ("psnr", "stlpips", "rfd", "correlation_cr", "hue_green", "corner_error")
RUNS = Path("runs")


def run(command: list[str]) -> None:
    subprocess.run([sys.executable, "main.py", *command], check=True, stdout=subprocess.DEVNULL)


def figures(checkpoint: str, file: Path, names: tuple[str, ...] = FIGURES) -> dict[str, float]:
    """Of the reconstructions of the 258 validation photographs."""
    run(
        ["evaluate", checkpoint, "-o", str(file), "--data", "../shared/data/intel_landscapes"]
        + ["--train-pictures", "64", "--features", VGG, "--only", "reconstruction"]
    )
    values = json.loads(file.read_text())["figures"]
    return {name: values[name]["value"] for name in names}


def finished(arm: list[str], name: str, steps: int, seed: int) -> dict[str, float]:
    run(
        ["train", "-b", "landscapes_vqgan_64", "-n", name, "--from", "landscapes", "--fitting"]
        + [*FINISHING, *arm, f"seed={seed}", f"trainer.max_steps={steps}"]
        + [f"trainer.validate_every={steps}", f"trainer.pictures_every={steps}"]
    )
    return figures(str(RUNS / name), RUNS / name / "figures.json")


Row = dict[str, float]


def over_seeds(
    name: str,
    arms: dict[str, list[str]],
    steps: int,
    first: Callable[[], dict[str, list[Row]]],
    one: Callable[[list[str], str, int, int], Row],
) -> dict[str, list[Row]]:
    """Every arm with its first seed before any has its second, by the command line's options.

    Args:
        name: of the runs and of the file of rows.
        arms: what each changes.
        steps: batches, where none are asked for.
        first: rows to begin with.
        one: an arm, the run's name, batches and seed -> its figures.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="some arms, by their whole names")
    options = parser.parse_args()
    file = RUNS / f"{name}.json"
    RUNS.mkdir(exist_ok=True)
    rows = json.loads(file.read_text()) if file.is_file() else first()
    for seed in range(options.seeds):
        for number, (arm, changes) in enumerate(arms.items()):
            done = rows.setdefault(arm, [])
            if len(done) > seed or (options.only and arm not in options.only):
                continue
            done.append(one(changes, f"{name}{number}-{seed}", options.steps, seed))
            file.write_text(json.dumps(rows, indent=1))
            print(arm, seed, done[-1], flush=True)
    return {arm: seeds for arm, seeds in rows.items() if seeds}


def shipped() -> dict[str, list[Row]]:
    return {"before": [figures("landscapes", RUNS / "before.json")]}


def main() -> None:
    for name, seeds in over_seeds("finishing", ARMS, 100, shipped, finished).items():
        means = [f"{statistics.mean(row[key] for row in seeds):.4g}" for key in FIGURES]
        print("|", " | ".join([name, *means]), "|")


if __name__ == "__main__":
    main()
