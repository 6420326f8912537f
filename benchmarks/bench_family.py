"""The family side by side: each first stage on the same pictures, with the same networks and number
of steps, and a small GPT on its codes.

python benchmarks/bench_family.py --data ../shared/data/intel_landscapes --seeds 3        #
photographs python benchmarks/bench_family.py --data drawn --seeds 3
# drawn landscapes python benchmarks/bench_family.py --data drawn --sweep --seeds 1
# how much of a codebook is used, for K from 64 to 16,384

Every run is a folder under runs/family; what is done already is not done again, so the script may
be stopped at any time. 32 px, batches of 16, encoder and decoder of VQ-VAE (width 64, 2 residual
blocks, f = 4: 8 x 8 codes); VQ-VAE-2 has a second level of 4 x 4 and width 48, so that it has about
as many parameters. All figures are of the validation pictures. ST-LPIPS (lower is better, trained
on by none) sees pictures enlarged to 64 px.
"""

import argparse
import json
import math
import os
import statistics
from pathlib import Path

import torch
from torchmetrics.functional.image import structural_similarity_index_measure

import taming
from taming import config, images
from taming.errors import UserError
from taming.first_stage import VAE
from taming.first_stage.perceptual import perceptual_distance
from taming.formats.load import read_checkpoint
from taming.training import run
from taming.training.datamodule import DataModule

SIZE, WIDTH, CODES, DIM = 32, 64, 512, 64
RUNS = Path("runs/family")


def target(name: str, **params) -> dict:
    return {"target": f"taming.first_stage.{name}", "params": params}


def systems(codes: int = CODES) -> dict[str, tuple[dict, dict]]:
    """Model and loss of each."""
    nets = {"width": WIDTH, "residual_width": WIDTH // 2}
    gaussian, likelihood = target("GaussianLikelihood"), target("LikelihoodLoss")
    levels = {
        64: [8, 8],
        256: [8, 8, 4],
        512: [8, 8, 8],
        1024: [8, 8, 4, 4],
        4096: [8, 8, 8, 8],
        16384: [8, 8, 8, 8, 4],
    }

    def discrete(quantizer: dict) -> tuple[dict, dict]:
        return target("VQVAE", **nets, quantizer=quantizer, likelihood=gaussian), likelihood

    l2 = target("VectorQuantizer", num_codes=codes, dim=8, normalize=True, restart=20)
    gan = {
        "perceptual": "none",
        "adversarial": 0.3,
        "adversarial_start": 0.5,
        "adversarial_ramp": 50,
        "discriminator": target("PatchDiscriminator", width=32, layers=2),
    }
    gumbel = target(
        "GumbelQuantizer",
        num_codes=codes,
        dim=DIM,
        kl_weight=0.005,
        kl_batches=100,
        temperature=[1.0, 0.0625],
        temperature_batches=150,
        hard=False,
    )
    return {
        "VAE": (target("VAE", **nets, dim=8, likelihood=gaussian), likelihood),
        "VQ-VAE, gradient": discrete(target("VectorQuantizer", num_codes=codes, dim=DIM)),
        "VQ-VAE, EMA": discrete(target("EMAQuantizer", num_codes=codes, dim=DIM)),
        "VQ-VAE, EMA from data": discrete(
            target("EMAQuantizer", num_codes=codes, dim=DIM, from_data=True)
        ),
        "VQ-VAE, EMA with restart": discrete(
            target("EMAQuantizer", num_codes=codes, dim=DIM, restart=0.1)
        ),
        "VQ-VAE, l2": discrete(target("VectorQuantizer", num_codes=codes, dim=8, normalize=True)),
        "VQ-VAE, l2 with restart": discrete(l2),
        "VQ-VAE, rotation": discrete(
            target("VectorQuantizer", num_codes=codes, dim=DIM, gradient="rotated")
        ),
        "FSQ": discrete(target("FSQ", levels=levels[codes])),
        "LFQ": discrete(target("LFQ", dim=int(math.log2(codes)))),
        "SimVQ": discrete(target("SimVQ", num_codes=codes, dim=DIM)),
        "residual, 2 x EMA": discrete(
            target(
                "ResidualQuantizer",
                quantizers=[target("EMAQuantizer", num_codes=codes, dim=DIM, restart=0.1)] * 2,
            )
        ),
        "dVAE": (
            target("VQVAE", **nets, quantizer=gumbel, likelihood=target("LogitLaplaceLikelihood")),
            likelihood,
        ),
        "VQ-VAE-2": (
            target(
                "VQVAE2",
                width=48,
                residual_width=24,
                likelihood=gaussian,
                quantizers=[target("EMAQuantizer", num_codes=codes, dim=DIM, restart=0.1)] * 2,
            ),
            likelihood,
        ),
        "VQ-GAN": (target("VQVAE", **nets, quantizer=l2), target("VQGANLoss", **gan)),
    }


def data_sets(root: str) -> dict:
    if root == "drawn":
        sets = [
            {
                "target": "taming.data.DrawnLandscapes",
                "params": {"size": SIZE, "count": n, "seed": s},
            }
            for n, s in ((2000, 0), (256, 1))
        ]
    else:
        sets = [
            {
                "target": "taming.data.ImageFolder",
                "params": {
                    "root": root,
                    "list": f"{name}.txt",
                    "view": {"size": SIZE, "flip": name == "train"},
                },
            }
            for name in ("train", "validation")
        ]
        for each in sets:
            each["params"]["root"] = f"{root}/images"
            each["params"]["list"] = f"{root}/{each['params']['list']}"
    return dict(zip(("train", "validation"), sets))


def first_plain(name: str, root: str, seed: int, steps: int, codes: int) -> dict:
    model, loss = systems(codes)[name]
    return {
        "model": model,
        "loss": loss,
        "seed": seed,
        "optimizer": {"learning_rate": 1e-3, "warmup": 20},
        "data": {"batch_size": 16, **data_sets(root)},
        "trainer": {
            "max_steps": steps,
            "validate_every": steps,
            "checkpoint_every": steps,
            "pictures_every": steps,
        },
    }


def second_plain(
    checkpoint: Path, grids: tuple, codes: tuple[int, ...], root: str, seed: int, steps: int
) -> dict:
    start = {"vocabulary": 1, "length": 1}
    priors = []
    for level, (grid, count) in enumerate(zip(grids, codes)):
        parts = [
            start,
            *({"vocabulary": k, "grid": list(g)} for g, k in zip(grids[:level], codes[:level])),
        ]
        priors.append(
            {
                "target": "taming.second_stage.GPT",
                "params": {
                    "num_codes": count,
                    "grid": list(grid),
                    "parts": parts,
                    "layers": 4,
                    "heads": 4,
                    "width": 128,
                    "dropout": 0.1,
                },
            }
        )
    model = {
        "first_stage": target("pretrained", checkpoint=str(checkpoint)),
        "conditioner": {"target": "taming.second_stage.Unconditional"},
        "priors": priors,
    }
    return {
        "model": {"target": "taming.second_stage.SecondStage", "params": model},
        "seed": seed,
        "optimizer": {
            "learning_rate": 2e-3,
            "betas": [0.9, 0.95],
            "weight_decay": 0.01,
            "warmup": 20,
        },
        "data": {"batch_size": 16, "views": 2, **data_sets(root)},
        "trainer": {
            "max_steps": steps,
            "validate_every": steps,
            "checkpoint_every": steps,
            "pictures_every": steps,
            "ema": 0.98,
        },
    }


def trained(plain: dict, folder: Path) -> Path:
    """The last checkpoint of this run, which is made where it is not there yet."""
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        run.train(config.from_plain(plain), folder)
    return last


@torch.no_grad()
def measured(model, root: str) -> dict[str, float]:
    """PSNR in dB, SSIM, ST-LPIPS of reconstructions (of a VAE: from the posterior's mean)."""
    dataset = config.build(data_sets(root)["validation"], place="data")
    loader = DataModule(dataset, dataset, 64, 0).val_dataloader()
    distance, sums, count = (
        perceptual_distance("stlpips"),
        {"psnr": 0.0, "ssim": 0.0, "stlpips": 0.0},
        0,
    )
    for batch in loader:
        image = batch["image"]
        made = model.reconstruct(image).clamp(-1, 1)
        count += len(image)
        sums["psnr"] += float(
            (10 * torch.log10(4 / (image - made).square().flatten(1).mean(1))).sum()
        )
        sums["ssim"] += float(
            structural_similarity_index_measure((made + 1) / 2, (image + 1) / 2, data_range=1.0)
        ) * len(image)
        large = [
            torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
            for x in (image, made)
        ]
        sums["stlpips"] += float(distance(*large).mean()) * len(image)
    return {name: value / count for name, value in sums.items()}


def one(
    name: str, root: str, seed: int, steps: int, codes: int = CODES, prior: bool = True
) -> dict:
    """The figures of one system, from the file where they were written when it was done."""
    folder = (
        RUNS / f"{Path(root).name}-{name.replace(' ', '_').replace(',', '')}-{codes}-{steps}-{seed}"
    )
    done = folder / "figures.json"
    if done.is_file():
        return json.loads(done.read_text())
    checkpoint = trained(first_plain(name, root, seed, steps, codes), folder / "first")
    model = taming.load(checkpoint)
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        **measured(model, root),
    }
    metrics = read_checkpoint(checkpoint).figures
    figures["bits_per_dim"] = metrics.get("bits_per_dim")
    if not isinstance(model, VAE):
        grids = model.grids(SIZE, SIZE)
        levels = range(len(grids))
        key = lambda what, level: metrics[what if level == 0 else f"{what}_{level}"]  # noqa: E731
        weights = [g[0] * g[1] for g in grids]
        figures["bits"] = sum(w * math.log2(k) for w, k in zip(weights, model.num_codes))
        figures["used"] = sum(
            key("used", level) * k for level, k in zip(levels, model.num_codes)
        ) / sum(model.num_codes)
        figures["perplexity"] = [key("perplexity", level) for level in levels]
        if prior:
            last = trained(
                second_plain(checkpoint, grids, model.num_codes, root, seed, steps),
                folder / "second",
            )
            second = read_checkpoint(last).figures
            figures |= {"nll_bits": second["bits"], "unigram_bits": second["unigram_bits"]}
            figures["prior_bits"] = second["bits"] * sum(weights)
            if figures["bits_per_dim"] is not None:
                saved = (figures["bits"] - figures["prior_bits"]) / (3 * SIZE * SIZE)
                figures["total_bits_per_dim"] = figures["bits_per_dim"] - saved
            if seed == 0:
                images.save(
                    images.contact_sheet(
                        taming.load(last).sample({"count": 16}, seed=0), columns=8
                    ),
                    folder / "samples.png",
                )
    elif seed == 0:
        images.save(
            images.contact_sheet(model.sample(16, (SIZE, SIZE)), columns=8), folder / "samples.png"
        )
    temporary = done.with_suffix(".tmp")
    temporary.write_text(json.dumps(figures))
    os.replace(temporary, done)
    return figures


def show(rows: dict[str, list[dict]]) -> None:
    """Means over seeds, and the spread (largest minus smallest) of PSNR and prior."""
    print(
        "| system | M params | PSNR (spread) | SSIM | ST-LPIPS | code bits | used | perplexity |"
        " prior bits/code (spread) | prior bits/dim | total bits/dim |"
    )
    print("| --- |" + " --- |" * 10)
    for name, figures in rows.items():

        def mean(key: str, form: str = ".3g", figures=figures) -> str:
            values = [f[key] for f in figures if f.get(key) is not None]
            return format(statistics.mean(values), form) if values else "-"

        def spread(key: str, figures=figures) -> str:
            values = [f[key] for f in figures if f.get(key) is not None]
            return f" ({max(values) - min(values):.2f})" if len(values) > 1 else ""

        perplexity = [f["perplexity"] for f in figures if f.get("perplexity")]
        codes_in_use = (
            " + ".join(f"{statistics.mean(level):.0f}" for level in zip(*perplexity)) or "-"
        )
        prior = [f["prior_bits"] / (3 * SIZE * SIZE) for f in figures if f.get("prior_bits")]
        bits = f"{statistics.mean(prior):.3f}" if prior else "-"
        total = mean("total_bits_per_dim", ".2f") if prior else mean("bits_per_dim", ".2f")
        print(
            f"| {name} | {mean('parameters')} | {mean('psnr', '.2f')}{spread('psnr')} |"
            f" {mean('ssim')} | {mean('stlpips')} | {mean('bits', '.0f')} | {mean('used', '.0%')} |"
            f" {codes_in_use} | {mean('nll_bits', '.2f')}{spread('nll_bits')} | {bits} | {total} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--data",
        default="drawn",
        help="drawn, or a folder with images, train.txt and validation.txt",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="+", help="systems")
    parser.add_argument(
        "--sweep", action="store_true", help="codebooks of 64 to 16,384 codes, first stages only"
    )
    options = parser.parse_args()
    names = options.only or list(systems())
    if options.sweep:
        names = options.only or [
            "VQ-VAE, gradient",
            "VQ-VAE, EMA",
            "VQ-VAE, EMA with restart",
            "VQ-VAE, l2",
            "VQ-VAE, l2 with restart",
            "FSQ",
            "LFQ",
            "SimVQ",
        ]
        print("| system | K | used | perplexity | PSNR |\n| --- | --- | --- | --- | --- |")
        for name in names:
            for codes in (64, 256, 1024, 4096, 16384):
                rows_of_values = [
                    one(name, options.data, seed, options.steps, codes, prior=False)
                    for seed in range(options.seeds)
                ]
                used, perplexity, psnr = (
                    statistics.mean(values)
                    for values in zip(
                        *((f["used"], f["perplexity"][0], f["psnr"]) for f in rows_of_values)
                    )
                )
                print(
                    f"| {name} | {codes} | {used:.1%} | {perplexity:.0f} | {psnr:.2f} |", flush=True
                )
        return
    # Seed after seed, so that an early stop leaves a whole table
    for seeds in range(1, options.seeds + 1):
        rows: dict[str, list[dict]] = {}
        for name in names:
            try:
                rows[name] = [one(name, options.data, seed, options.steps) for seed in range(seeds)]
            except UserError as error:
                print(f"{name}: {error}")
        print(f"\n{options.data}, {SIZE} px, {options.steps} batches of 16, {seeds} seeds")
        show(rows)


if __name__ == "__main__":
    main()
