"""Sampling with the key/value cache against ways without, in one run: ratios, since machines are
noisy.

python benchmarks/bench_sampling.py --threads 2          # and --threads 1; --quick for a look

Work: a GPT of 12 layers and width 512 with one start token and 1,024 codes, random weights;
temperature 1, top-k 100, one uniform number per code.

- recompute: the whole prefix through the network for each code (of the codes so far only; the
published sampler computes all positions). Timed at every 8th to 64th position and added up in
proportion. - concatenation: keys and values kept, grown by `torch.cat` at each code, ordinary
linear layers: as in much public code. - window: 32 x 52 codes through windows of 16 x 16 with a
mask token for each code; against the published way, the whole window anew for each code, timed at 8
positions. - streaming bound: the weights of one step, read once (their sum, best of 5), over the
time of a step.
"""

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from taming.config.sampling import Fast
from taming.second_stage import GPT, Part, sample
from taming.second_stage import window as windows
from taming.second_stage.gpt import CachedDecoder, LayerCache
from taming.second_stage.sampling import Sampling, draw

LAYERS, WIDTH, HEADS, CODES = 12, 512, 8, 1024
FIELDS = {"temperature": 1.0, "top_k": 100}
SAMPLING = Sampling(**FIELDS)


class GrownCache(LayerCache):
    """As much public code has it."""

    def __init__(self, shape: tuple[int, ...], like: Tensor):
        self.keys, self.values = (
            like.new_empty(*shape[:2], 0, shape[3]),
            like.new_empty(*shape[:2], 0, shape[3]),
        )

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (
            torch.cat([self.keys, k], dim=2),
            torch.cat([self.values, v], dim=2),
        )
        return self.keys, self.values

    def extend_by_one(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.extend(k[:, :, None], v[:, :, None])


def prior_of(side: int, part: dict) -> GPT:
    return GPT(LAYERS, HEADS, WIDTH, num_codes=CODES, grid=[side, side], parts=[part]).eval()


def start(batch: int) -> tuple[Part, ...]:
    return (Part(torch.zeros(batch, 1, dtype=torch.int64), 1),)


def generators(batch: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(batch)]


def timed(run) -> float:
    """Seconds; of one thread CPU time, which other jobs hardly move."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    before = clock()
    run()
    return clock() - before


def cached(prior: GPT, batch: int, side: int, fast: Fast = "off") -> float:
    more = {"generators": generators(batch), "fast": fast}
    return timed(lambda: sample(prior, start(batch), (side, side), **more, **FIELDS))


def grown(prior: GPT, batch: int, side: int) -> float:
    class Growing(CachedDecoder):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.caches = [
                GrownCache((batch, HEADS, 0, WIDTH // HEADS), prior.pos_emb) for _ in prior.blocks
            ]

    prior.decoder, prior.decoding = (
        lambda condition, grid: Growing(prior, condition, grid),
        nullcontext,
    )
    seconds = cached(prior, batch, side)
    del prior.decoder, prior.decoding
    return seconds


@torch.no_grad()
def recomputed(prior: GPT, batch: int, side: int, every: int) -> float:
    seconds = 0.0
    prefix = prior.embed_condition(start(batch))
    codes = torch.randint(0, CODES, (batch, side, side))
    embedded = prior.embed_codes(codes)
    for position in range(every // 2, side * side, every):

        def step(position: int = position) -> None:
            x = torch.cat([prefix, embedded[:, :position]], dim=1)
            for block in prior.blocks:
                x = block(x)
            draw(prior.head(prior.ln_f(x[:, -1])), torch.rand(batch, dtype=torch.float64), SAMPLING)

        seconds += timed(step) * every
    return seconds


def streaming(prior: GPT, seconds_per_step: float) -> tuple[float, float]:
    """Share of the bound, and the bandwidth in GB/s that it assumes."""
    weights = torch.cat(
        [
            p.detach().flatten()
            for name, p in prior.named_parameters()
            if "tok_emb" not in name and "pos_emb" not in name and "cond_emb" not in name
        ]
    )
    bound = min(timed(lambda: weights.sum()) for _ in range(5))
    return bound / seconds_per_step, weights.numel() * 4 / bound / 1e9


@torch.no_grad()
def window(quick: bool) -> list[tuple[str, float, str]]:
    prior = prior_of(16, {"vocabulary": CODES, "grid": [16, 16]})
    grid = (20, 26) if quick else (32, 52)
    condition = (Part(torch.randint(0, CODES, (1, grid[0] * grid[1])), CODES, grid),)
    crop = lambda condition, place, whole: tuple(part.crop(place, whole) for part in condition)  # noqa: E731
    whole = (replace(condition[0].crop((0, 0, 16, 16), grid)),)
    codes = torch.randint(0, CODES, (1, 16, 16))
    each = sorted(timed(lambda: prior(codes, whole)) for _ in range(8))[4]
    plain = each * grid[0] * grid[1]
    rows = [("window: all of it for each code", plain, f"{each * 1e3:.0f} ms per code")]
    columns = len({windows.origin(j, grid[1], 16) for j in range(grid[1])})
    for name, limit in (
        ("window: one live cache per column", 1 << 40),
        ("window: consecutive ones only", 0),
    ):
        windows.CACHE_LIMIT = limit
        seconds = timed(
            lambda: sample(prior, condition, grid, generators=generators(1), crop=crop, **FIELDS)
        )
        memory = prior.cache_bytes(1, (16, 16)) * (columns if limit else 1)
        rows.append((name, seconds, f"{memory / 1e9:.2f} GB of keys and values"))
    return rows


def show(title: str, rows: list[tuple[str, float, str]]) -> None:
    print(f"\n{title}")
    for name, seconds, note in rows:
        print(
            f"| {name:<44} | {seconds:>8.2f} s | {rows[0][1] / seconds:>6.2f}x | {note}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["short", "long", "window"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{options.threads} threads, torch {torch.__version__}")
    if options.only in (None, "short"):
        prior = prior_of(16, {"vocabulary": 1, "length": 1})
        cached(prior, 1, 4)
        for batch in (1, 8):
            slow = recomputed(prior, batch, 16, 32 if options.quick or batch == 8 else 8)
            # in turns, so that a noisy moment does not meet one of them only
            first = cached(prior, batch, 16, "compile")
            times = [
                (
                    cached(prior, batch, 16),
                    grown(prior, batch, 16),
                    cached(prior, batch, 16, "compile"),
                )
                for _ in range(1 if options.quick else 3)
            ]
            ours, concatenated, compiled = (min(column) for column in zip(*times))
            notes = ["", f"{first - compiled:.0f} s more at first"]
            if batch == 1:
                for i, seconds in enumerate((ours, compiled)):
                    share, bandwidth = streaming(prior, seconds / 256)
                    notes[i] += f" {share:.0%} of the streaming bound at {bandwidth:.1f} GB/s"
            show(
                f"256 codes, batch {batch}",
                [
                    ("recompute", slow, ""),
                    ("concatenation", concatenated, ""),
                    ("ours", ours, notes[0]),
                    ("ours, compiled step", compiled, notes[1]),
                ],
            )
    if options.only in (None, "long") and not options.quick:
        prior = prior_of(32, {"vocabulary": 1, "length": 1})
        show(
            "1,024 codes, batch 1",
            [("recompute", recomputed(prior, 1, 32, 64), ""), ("ours", cached(prior, 1, 32), "")],
        )
    if options.only in (None, "window"):
        show("32 x 52 codes through 16 x 16", window(options.quick))


if __name__ == "__main__":
    main()
