"""GPT, gated PixelCNN and PixelSNAIL on the same codes, with about as many parameters: nats per
code at equal steps and at equal CPU time, samples per second.

python -m benchmarks.bench_priors CKPT --data ../shared/data/intel_landscapes --steps 600
--threads 1

CKPT: a first stage with one level, of 32 px pictures (a run of bench_family.py, or
runs/drawn_vqvae_32). Codes of two views of each training picture are made once; batches of 16,
AdamW with a cosine, no dropout, one start token as condition, averaged weights. Time is CPU time of
training alone. Equal time: each goes on for as long as the slowest took for `--steps`, on a cosine
of that length. Learning rates are doubled as long as that helps, by a sixth of the steps.
"""

import argparse
import copy
import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor

import taming
from benchmarks.bench_family import data_sets
from taming import config
from taming.second_stage import GPT, GatedPixelCNN, Part, PixelSNAIL, Prior, sample

START = [{"vocabulary": 1, "length": 1}]
FIRST_RATE = 2e-3


def priors(codes: int, grid: tuple[int, int]) -> dict[str, Prior]:
    """About equally large."""
    return {
        "GPT": GPT(4, 4, 128, num_codes=codes, grid=list(grid), parts=START),
        "gated PixelCNN": GatedPixelCNN(5, 80, 3, num_codes=codes, grid=list(grid), parts=START),
        "PixelSNAIL": PixelSNAIL(2, 2, 96, 4, 3, num_codes=codes, grid=list(grid), parts=START),
    }


def start(count: int) -> tuple[Part, ...]:
    return (Part(torch.zeros(count, 1, dtype=torch.int64), 1),)


@torch.no_grad()
def encoded(model, root: str, part: str, views: tuple) -> Tensor:
    dataset = config.build(data_sets(root)[part], place="data")
    images = torch.stack(
        [dataset[(i, view)]["image"] for view in views for i in range(len(dataset))]
    )
    return torch.cat([model.encode(batch)[0] for batch in images.split(64)])


@torch.no_grad()
def nats(prior: Prior, codes: Tensor) -> float:
    """Per code."""
    return (
        -sum(float(prior.log_prob(batch, start(len(batch))).sum()) for batch in codes.split(64))
        / codes.numel()
    )


def trained(prior: Prior, codes: Tensor, steps: int, rate: float) -> tuple[Prior, float]:
    """The averaged weights, and the CPU seconds that it took."""
    optimizer = torch.optim.AdamW(prior.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.01)
    averaged, generator = copy.deepcopy(prior), torch.Generator().manual_seed(0)
    before = time.process_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                rate
                * min(1.0, (step + 1) / 20)
                * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
            )
        batch = codes[torch.randint(len(codes), (16,), generator=generator)]
        loss = F.cross_entropy(prior(batch, start(16)).flatten(0, 2), batch.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(0.99, (1 + step) / (10 + step))
            for mean, now in zip(averaged.parameters(), prior.parameters()):
                mean.lerp_(now, 1 - decay)
    return averaged.eval(), time.process_time() - before


def samples_per_second(prior: Prior, grid: tuple[int, int], batch: int) -> float:
    before = time.perf_counter()
    sample(prior, start(batch), grid)
    return batch / (time.perf_counter() - before)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument(
        "--data",
        default="drawn",
        help="drawn, or a folder with images, train.txt and validation.txt",
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = taming.load(options.checkpoint)
    train, validation = (
        encoded(model, options.data, "train", (0, 1)),
        encoded(model, options.data, "validation", (None,)),
    )
    grid, known = tuple(train.shape[1:]), model.num_codes[0]
    counts = torch.bincount(validation.flatten(), minlength=known).double()
    print(
        f"{options.data}: {len(train)} grids of {grid[0]}x{grid[1]} codes of {known}; unigram"
        f" {float(torch.special.entr(counts / counts.sum()).sum()):.3f} nats",
        flush=True,
    )
    made, rates, seconds, rows = {}, {}, {}, {}
    for name in priors(known, grid):

        def fresh(name: str = name) -> Prior:
            torch.manual_seed(0)
            return priors(known, grid)[name].train()

        tried, rate = {}, FIRST_RATE
        while not tried or tried[rate / 2] == min(tried.values()):  # doubled as long as that helps
            tried[rate] = nats(
                trained(fresh(), train, max(20, options.steps // 6), rate)[0], validation
            )
            rate *= 2
        rates[name] = min(tried, key=tried.get)
        prior, seconds[name] = trained(fresh(), train, options.steps, rates[name])
        speed = [samples_per_second(prior, grid, batch) for batch in (1, 16)]
        rows[name] = (
            sum(p.numel() for p in prior.parameters()) / 1e6,
            nats(prior, validation),
            nats(prior, train[: len(validation)]),
            *speed,
        )
        made[name] = fresh
        print(
            f"  {name}: rates {', '.join(f'{r:g}: {v:.3f}' for r, v in tried.items())};"
            f" {seconds[name]:.0f} s",
            flush=True,
        )
    longest = max(seconds.values())
    print(
        "| prior | M parameters | nats, equal steps (train) | CPU s | steps in equal time | nats,"
        " equal time | samples/s, batch 1 | batch 16 |"
    )
    print("| --- |" + " --- |" * 7)
    for name, (size, nll, seen, one, many) in rows.items():
        steps = round(options.steps * longest / seconds[name])
        equal = (
            nll
            if steps == options.steps
            else nats(trained(made[name](), train, steps, rates[name])[0], validation)
        )
        print(
            f"| {name} | {size:.2f} | {nll:.3f} ({seen:.3f}) | {seconds[name]:.0f} | {steps} |"
            f" {equal:.3f} | {one:.1f} | {many:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
