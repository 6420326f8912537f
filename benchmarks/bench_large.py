"""Large pictures by a cascade: time and memory of each level, seams, and agreement with the layout.

    OMP_NUM_THREADS=2 python -m benchmarks.bench_large landscapes docs/large_layout.png \
        --size 832x1280 --seeds 3 -o runs/large

A seam would show as a larger difference across the lines on which windows meet (multiples of 32
pixels: windows of 16 codes, moved by half of that from pass to pass) than across the lines between
coarser codes on both sides of them (8 pixels away: where codes of the level below meet, differences
are larger than between, which is no seam of windows). How much the same figure strays by itself
show the lines 8, 16 and 24 pixels farther, on which no windows meet.
Agreement is the share of pixels that the shipped segmenter labels as the layout
says, on the whole picture, brought down to a short side of 64 pixels, what it was trained on.
"""

import argparse
import resource
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import taming
from taming.data.layouts import mask_to_tensor, read_mask
from taming.images import save
from taming.inference.segment import load_segmenter
from taming.second_stage import Cascade

COARSE, LINE = 8, 32  # pixels under a coarser code; between lines on which windows meet


def seams(image: Tensor) -> list[list[float]]:
    """How much larger the difference of neighbouring pixels is across every fourth line between
    coarser codes than across those on both sides of it: the mean over lines, of columns and of
    rows; first of the lines on which windows meet, then of those 8, 16 and 24 pixels farther.
    Beside each other, because what is in the picture (a horizon) counts more than any seam.
    """
    ratios = []
    for axis in (-1, -2):
        difference = image.diff(dim=axis).abs().transpose(axis, -1).flatten(0, -2).mean(dim=0)
        ratios.append([_across(difference, shift) for shift in range(0, LINE, COARSE)])
    return ratios


def _across(difference: Tensor, shift: int) -> float:
    lines = torch.arange(LINE + shift, len(difference) - COARSE, LINE) - 1
    beside = (difference[lines - COARSE] + difference[lines + COARSE]) / 2
    return float((difference[lines] / beside).log().mean().exp())


@torch.no_grad()
def agreement(image: Tensor, labels: Tensor) -> float:
    """image (1, 3, H, W), labels (1, H, W)."""
    scale = 64 / min(image.shape[-2:])
    size = [round(side * scale) for side in image.shape[-2:]]
    small = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
    layout = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    return float((load_segmenter()(small).argmax(dim=1) == layout).float().mean())


def timed(model: Cascade) -> list[float]:
    """When each level begins, as it draws; the list grows."""
    moments, enlarge = [], model.enlarge

    def wrapped(*arguments, **more):
        moments.append(time.perf_counter())
        return enlarge(*arguments, **more)

    object.__setattr__(model, "enlarge", wrapped)
    return moments


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("layouts", nargs="+")
    parser.add_argument("--size", default="832x1280")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/large"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = taming.load(options.model)
    size = tuple(int(side) for side in options.size.split("x"))
    moments = timed(model)
    for path in options.layouts:
        mask = mask_to_tensor(read_mask(path))[None].long()
        labels = F.interpolate(mask[:, None].float(), size, mode="nearest-exact")[:, 0].long()
        for seed in range(options.seeds):
            moments.clear()
            start = time.perf_counter()
            settings = {**model.card.sampling, "seed": seed, "size": size}
            image = model.sample({"segmentation": labels}, **settings)
            end = time.perf_counter()
            marks = [start, *moments, end]
            levels = ", ".join(f"{b - a:.1f}" for a, b in zip(marks, marks[1:]))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            columns, rows = (
                f"{own:.3f} ({min(others):.3f} to {max(others):.3f})"
                for own, *others in seams(image)
            )
            print(
                f"{Path(path).stem} seed {seed}: {end - start:.1f} s ({levels}), {peak:.2f} GB,"
                f" across window lines (others): columns {columns}, rows {rows}, layout"
                f" {agreement(image, labels):.1%}",
                flush=True,
            )
            save(image[0], options.out / f"{Path(path).stem}-{seed}.png")


if __name__ == "__main__":
    main()
