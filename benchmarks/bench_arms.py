"""What each part of a prior is worth: arms that differ in one thing from the first, each trained
for the same CPU time, then measured by the same judge.

OMP_NUM_THREADS=1 python -m benchmarks.bench_arms --seconds 75 --evaluate

The tokenizer is the shipped one, the data intel_landscapes, one view of each picture; 3 layers of
128, batches of 16. An arm's batches follow from its CPU time per batch (of the whole process, so
that other work beside does not count), and its cosine from them. Rows go to runs/arms.json
as they are made; what is there is not done again. Every arm has its first seed before any has its
second. With --batches 100 --only base float32: what bfloat16 costs.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

BASE = [
    "variables.vqgan=landscapes",
    "model.params.prior.params.layers=3",
    "model.params.prior.params.width=128",
    "optimizer.warmup=30",
    "trainer.ema=0.98",
    "data.views=1",
    "data.train.target=taming.data.SegmentedImages",
    "data.train.params={root: ../shared/data/intel_landscapes, list: train.txt, view: {size: 64}}",
]
PREFIX = (
    "model.params.conditioner={target: taming.second_stage.EncodedImage, params: {first_stage:"
    " {target: taming.first_stage.pretrained, params: {checkpoint: MASKS, part: masks}}}}"
)
BLOCK = "model.params.prior.params.block"
RUNS = Path("runs")
ARMS: dict[str, list[str]] = {
    "base": [],
    "mask as a prefix": [PREFIX, "model.params.prior.params.condition=prefix"],
    "codes do not start alike": ["model.params.prior.params.alike=false"],
    "AdamW, 1e-3": ["optimizer.algorithm=adamw", "optimizer.learning_rate=1e-3"],
    "block of GPT-2": [
        f"{BLOCK}={{norm: layer, mlp: gelu, qk_norm: false, rotary: false, zero_init: false, bias:"
        " true}"
    ],
    "SwiGLU": [f"{BLOCK}.mlp=swiglu"],
    "no QK-norm": [f"{BLOCK}.qk_norm=false"],
    "no rotary positions": [f"{BLOCK}.rotary=false"],
    "regressions, weight 1": ["objective.regression=1.0"],
    "clusters, weight 0.5": ["objective.cluster_weight=0.5"],
    "random order, 1 to 0": ["objective.random_order=1.0"],
    "noise 0.2 to 0": ["noise=0.2", "objective.noise_end=0.0"],
    "no noise": ["noise=0.0"],
    "float32": ["trainer.precision=32-true"],
}


def cpu_seconds(command: list[str]) -> float:
    """Of a command that is run to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def training(name: str, arm: list[str], masks: str, steps: int) -> list[str]:
    changes = [change.replace("MASKS", masks) for change in [*BASE, *arm]]
    return [
        *(sys.executable, "main.py", "train", "-b", "landscapes_gpt_64"),
        *("-n", name, *changes, f"trainer.max_steps={steps}"),
        *(f"trainer.validate_every={steps}", f"trainer.checkpoint_every={steps}"),
        *(f"trainer.pictures_every={steps}", "data.cache=runs/arms_cache"),
    ]


def measured(run: Path, segmenter: str, pictures: int) -> dict:
    """Layout agreement and recall of samples at guidance 3, top-p 0.9."""
    file = run / "figures.json"
    command = [
        *(sys.executable, "main.py", "evaluate", str(run), "-o", str(file)),
        *("--data", "../shared/data/intel_landscapes", "--pictures", str(pictures)),
        *("--train-pictures", "512", "--guidance", "3", "--top-p", "0.9"),
        *("--features", "../shared/weights/vgg16_imagenet_features_fp16.safetensors"),
        *("--segmenter", segmenter, "--only", "generation,layout"),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(file.read_text())


def nats(run: Path) -> float:
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    return [float(row[2]) for row in rows if row[1] == "validation/nll"][-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=150, help="CPU time of an arm's training")
    parser.add_argument("--batches", type=int, help="as many for every arm, not as many seconds")
    parser.add_argument("--masks", default="intel_landscapes", help="whose mask tokenizer it is")
    parser.add_argument("--segmenter", default="landscapes_segmenter")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--only", nargs="*", help="some arms, by their beginning")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    file = RUNS / "arms.json"
    rows = json.loads(file.read_text()) if file.is_file() else {}
    for seed in range(options.seeds):
        for number, (name, arm) in enumerate(ARMS.items()):
            if options.only and not name.startswith(tuple(options.only)):
                continue
            short = f"arm{number}"
            row = rows.setdefault(name, {"seeds": []})
            if "batches" not in row:
                row |= length(short, arm, options)
            if len(row["seeds"]) <= seed:
                row["seeds"].append(
                    one(f"{short}-seed{seed}", [*arm, f"seed={seed}"], row, options)
                )
                file.write_text(json.dumps(rows, indent=1))
                last = row["seeds"][-1]
                print(f"{name}, seed {seed}: {last['nats']:.3f} nats", flush=True)


def length(short: str, arm: list[str], options: argparse.Namespace) -> dict:
    """How many batches its CPU time buys."""
    if options.batches:
        return {"batches": options.batches}
    seconds = {}
    # the first makes the cache, so that both that are compared only read it
    for steps in (2, 4, 24):
        seconds[steps] = cpu_seconds(training(f"{short}-{steps}", arm, options.masks, steps))
    cost = (seconds[24] - seconds[4]) / 20
    return {"cost": cost, "batches": max(20, round(options.seconds / cost))}


def one(name: str, arm: list[str], row: dict, options: argparse.Namespace) -> dict:
    """One arm trained with one seed, and measured."""
    seconds = cpu_seconds(training(name, arm, options.masks, row["batches"]))
    result = {"cpu": seconds, "nats": nats(RUNS / name)}
    if options.evaluate:
        result["figures"] = measured(RUNS / name, options.segmenter, options.pictures)
    return result


if __name__ == "__main__":
    main()
