"""Large pictures by a cascade: time and memory of each level, seams, and agreement with the layout.

    OMP_NUM_THREADS=2 python -m benchmarks.bench_large landscapes docs/large_layout.png \
        --size 832x1280 --seeds 3 -o runs/large

A seam would show as a larger difference across the lines on which windows meet (multiples of 32
pixels: windows of 16 codes, moved by half of that from pass to pass) than across the lines in the
middle between them, 16 pixels away, on which none meet. Lines nearer by are no measure for it: the
codes of the coarser levels, of 8 and 16 pixels, leave a grid of their own. In brackets the standard
error over the lines.
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

LINE = 32  # pixels between lines on which windows meet


def seams(image: Tensor) -> list[tuple[float, float]]:
    """How much larger the difference of neighbouring pixels is across a line on which windows meet
    than across those half way to the next ones: the mean over lines and its standard error, of
    columns and of rows. Beside each other, because what is in the picture (a horizon) counts more
    than any seam.
    """
    ratios = []
    for axis in (-1, -2):
        difference = image.diff(dim=axis).abs().transpose(axis, -1).flatten(0, -2).mean(dim=0)
        lines = torch.arange(LINE, len(difference) - LINE // 2, LINE) - 1  # pixel 31 and the next
        beside = (difference[lines - LINE // 2] + difference[lines + LINE // 2]) / 2
        logarithms = (difference[lines] / beside).log()
        error = logarithms.std() / len(lines) ** 0.5
        ratios.append((float(logarithms.mean().exp()), float(error)))
    return ratios


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
            columns, rows = (f"{ratio:.3f} ({error:.3f})" for ratio, error in seams(image))
            print(
                f"{Path(path).stem} seed {seed}: {end - start:.1f} s ({levels}), {peak:.2f} GB,"
                f" across window lines {columns} {rows} of those between, layout"
                f" {agreement(image, labels):.1%}",
                flush=True,
            )
            save(image[0], options.out / f"{Path(path).stem}-{seed}.png")


if __name__ == "__main__":
    main()
