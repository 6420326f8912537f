"""What it does to quality that both optimizers share one forward of the generator: pairs of short
trainings on photographs, equal in all but that.

    python benchmarks/bench_sharing.py ROOT [--seeds 3] [--steps 500]

ROOT: a folder as SegmentedImages reads it, with train.txt and validation.txt
(../shared/data/intel_landscapes). 32 px, f = 4, width 16, 256 codes, L1 loss, discriminator from
batch 100 on with weight 0.3. Judged by PSNR and by ST-LPIPS, which nothing was trained on, on the
validation pictures.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from taming import config
from taming.data import SegmentedImages
from taming.first_stage.perceptual import perceptual_distance
from taming.formats.load import load
from taming.training import run


def experiment(root: str, seed: int, steps: int, share: bool, threads: int) -> config.Experiment:
    quantizer = {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": 256, "dim": 8, "normalize": True, "restart": 20},
    }
    sets = {
        name: {
            "target": "taming.data.SegmentedImages",
            "params": {"root": root, "list": f"{name}.txt", "view": 32},
        }
        for name in ("train", "validation")
    }
    trainer = {
        "max_steps": steps,
        "validate_every": steps,
        "checkpoint_every": steps,
        "pictures_every": steps,
        "share_forward": share,
        "threads": threads,
    }
    return config.from_plain(
        {
            "model": {
                "target": "taming.first_stage.VQGAN",
                "params": {
                    "channels": 16,
                    "multipliers": [1, 2, 2],
                    "blocks": 1,
                    "latent_channels": 32,
                    "quantizer": quantizer,
                },
            },
            "loss": {
                "target": "taming.first_stage.VQGANLoss",
                "params": {
                    "perceptual": "none",
                    "adversarial": 0.3,
                    "adversarial_start": 100,
                    "discriminator": {
                        "target": "taming.first_stage.PatchDiscriminator",
                        "params": {"width": 32, "layers": 2},
                    },
                },
            },
            "optimizer": {"learning_rate": 1e-3, "discriminator_learning_rate": 5e-4},
            "data": {"batch_size": 8, **sets},
            "trainer": trainer,
            "seed": seed,
        }
    )


@torch.no_grad()
def rejection_sample(folder: Path, root: str, distance) -> tuple[float, float]:
    model, data = load(folder), SegmentedImages(root, 32, list="validation.txt")
    image = torch.stack([data[i]["image"] for i in range(len(data))])
    again = model.decode(model.encode(image)).clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (image - again).square().flatten(1).mean(1))
    larger = [
        torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest") for x in (image, again)
    ]
    return float(psnr.mean()), float(distance(*larger).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    distance = perceptual_distance("stlpips")
    print(f"{'seed':<6}{'forward':<10}{'PSNR, dB':>9}{'ST-LPIPS':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for share in (True, False):
                run.train(
                    experiment(options.root, seed, options.steps, share, options.threads),
                    Path(folder) / f"{seed}{share}",
                )
                psnr, lpips = rejection_sample(
                    Path(folder) / f"{seed}{share}", options.root, distance
                )
                print(
                    f"{seed:<6}{'shared' if share else 'two':<10}{psnr:>9.2f}{lpips:>10.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
