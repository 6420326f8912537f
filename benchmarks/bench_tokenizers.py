"""What each part of the tokenizer of `landscapes` is worth, and what bfloat16 costs it: arms that
differ in one thing from the first, each trained from scratch for as many batches with each seed;
then reconstructions of 258 held-out photographs.

OMP_NUM_THREADS=1 python -m benchmarks.bench_tokenizers --steps 200 --seeds 3

No discriminator (the config begins it after 2,000 batches). Rows go to runs/tokenizers.json as they
are made; what is there is not done again. Every arm has its first seed before any has its second.
"""

import argparse
import json
from pathlib import Path

from benchmarks.bench_finishing import figures, run

ARMS: dict[str, list[str]] = {
    "all": ["trainer.precision=auto"],
    "float32": ["trainer.precision=32-true"],
    "RGB": ["model.params.colour=null", "loss.params.colour_weight=0"],
    "padding with zeros": ["model.params.padding=zeros"],
    "32 groups": ["model.params.groups=32"],
    "K = 1024": ["model.params.quantizer.params.num_codes=1024"],
    "five blocks of VGG16, weight 0.6": [
        *("loss.params.perceptual_blocks=5", "loss.params.perceptual_weight=0.6")
    ],
}
FIGURES = (
    *("psnr", "stlpips", "rfd", "correlation_y", "correlation_cb"),
    *("correlation_cr", "hue_green", "hue_red", "corner_error"),
)
RUNS = Path("runs")


def trained(arm: list[str], name: str, steps: int, seed: int) -> dict[str, float]:
    run(
        ["train", "-b", "landscapes_vqgan_64", "-n", name, *arm, f"seed={seed}"]
        + [f"trainer.max_steps={steps}", f"trainer.validate_every={steps}", "trainer.ema=0.98"]
        + [f"trainer.pictures_every={steps}", f"trainer.checkpoint_every={steps}"]
    )
    rows = [line.split(",") for line in (RUNS / name / "metrics.csv").read_text().splitlines()]
    ended = {row[1]: float(row[2]) for row in rows if row[1].startswith("validation/")}
    return figures(str(RUNS / name), RUNS / name / "figures.json", FIGURES) | {
        "perplexity": ended["validation/perplexity"]
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="some arms, by their whole names")
    options = parser.parse_args()
    file = RUNS / "tokenizers.json"
    RUNS.mkdir(exist_ok=True)
    rows = json.loads(file.read_text()) if file.is_file() else {}
    for seed in range(options.seeds):
        for number, (name, arm) in enumerate(ARMS.items()):
            done = rows.setdefault(name, [])
            if len(done) > seed or (options.only and name not in options.only):
                continue
            done.append(trained(arm, f"tokenizer{number}-{seed}", options.steps, seed))
            file.write_text(json.dumps(rows, indent=1))
            print(name, seed, done[-1], flush=True)
    for name, seeds in rows.items():
        cells = [
            f"{min(row[key] for row in seeds):.4g} to {max(row[key] for row in seeds):.4g}"
            for key in (*FIGURES, "perplexity")
        ]
        print("|", " | ".join([name, *cells]), "|")


if __name__ == "__main__":
    main()
