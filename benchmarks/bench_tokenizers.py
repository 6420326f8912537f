"""What each part of the tokenizer of `landscapes` is worth, and what bfloat16 costs it: arms that
differ in one thing from the first, each trained from scratch for as many batches with each seed;
then reconstructions of 258 held-out photographs.

OMP_NUM_THREADS=1 python -m benchmarks.bench_tokenizers --steps 200 --seeds 3

No discriminator (the config begins it after 2,000 batches). Rows go to runs/tokenizers.json as they
are made; what is there is not done again. Every arm has its first seed before any has its second.
"""

from benchmarks.bench_finishing import RUNS, figures, over_seeds, run

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
    for name, seeds in over_seeds("tokenizers", ARMS, 200, dict, trained).items():
        cells = [
            f"{min(row[key] for row in seeds):.4g} to {max(row[key] for row in seeds):.4g}"
            for key in (*FIGURES, "perplexity")
        ]
        print("|", " | ".join([name, *cells]), "|")


if __name__ == "__main__":
    main()
