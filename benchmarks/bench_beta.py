"""Is VQ-VAE insensitive to beta? Swept from 0.01 to 100 with the likelihood's weight fixed, and
again with it a hundred times as large.

    python benchmarks/bench_beta.py --steps 300 --seeds 3

Drawn landscapes of 16 px, 4 x 4 codes, K = 64 by gradient, codes begin as data; the likelihood's
variance is fixed at 0.05, so that only beta and the weight change. `legacy`: the published VQ-GAN
code's mistake, beta on the codebook's term instead. Figures: squared error on 64 held-out pictures,
and codes used; means over seeds.
"""

import argparse
import statistics

import torch

from taming.data import DrawnLandscapes
from taming.first_stage import VQVAE, GaussianLikelihood, LikelihoodLoss, VectorQuantizer

BETAS = (0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 10.0, 100.0)


def pictures(count: int, seed: int) -> torch.Tensor:
    scenes = DrawnLandscapes(16, count, seed=seed)
    return torch.stack([scenes[i]["image"] for i in range(count)])


def trained(
    train: torch.Tensor,
    held_out: torch.Tensor,
    steps: int,
    seed: int,
    weight: float,
    **betas: float,
) -> tuple[float, int]:
    torch.manual_seed(seed)
    model = VQVAE(
        32,
        16,
        VectorQuantizer(64, 8, from_data=True, **betas),
        blocks=1,
        likelihood=GaussianLikelihood(0.05),
    ).train()
    optimizer, loss = torch.optim.Adam(model.parameters(), 2e-3), LikelihoodLoss(weight)
    for step in range(steps):
        batch = train[torch.randint(len(train), (16,))]
        total, _ = loss.autoencoder(batch, model(batch), model.last_layer, step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    with torch.no_grad():
        codes = model.eval().encode(held_out)
        return float((model.decode(codes) - held_out).square().mean()), len(codes[0].unique())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    train, held_out = pictures(512, 0), pictures(64, 1)
    print(
        "| | "
        + " | ".join(f"beta {beta:g}" for beta in BETAS)
        + " |\n| --- |"
        + " --- |" * len(BETAS)
    )
    rows = (
        ("likelihood x 1", 1.0, "commitment_weight"),
        ("likelihood x 100", 100.0, "commitment_weight"),
        ("likelihood x 1, legacy", 1.0, "codebook_weight"),
    )
    for name, weight, key in rows:
        cells = []
        for beta in BETAS:
            betas = (
                {key: beta} if key == "commitment_weight" else {key: beta, "commitment_weight": 1.0}
            )
            errors, used = zip(
                *(
                    trained(train, held_out, options.steps, seed, weight, **betas)
                    for seed in range(options.seeds)
                )
            )
            cells.append(f"{statistics.mean(errors):.4f} ({statistics.mean(used):.0f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
