"""How near samples come to another picture's colours, and what that costs in faithfulness to the
layout: one sample, the best of several, moved by the linear map, and drawn beside the picture.

    python benchmarks/bench_style.py [--pairs 12] [--data ../shared/data/intel_landscapes]

Layouts and styles are different validation photographs. Distance: ColourStyle.distance, in steps of
255; agreement: pixels that the shipped segmenter gives the layout's label.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import taming  # noqa: E402
from taming.data.reading import read_image, to_tensor  # noqa: E402
from taming.inference.segment import load_segmenter, segment  # noqa: E402
from taming.inference.style import ColourStyle, nearest  # noqa: E402
from taming.second_stage import SecondStage  # noqa: E402

SIDE, CANDIDATES = 64, 8


def pair(root: Path, name: str) -> tuple[Tensor, Tensor]:
    """A photograph and its mask."""
    image = read_image(root / "images" / f"{name}.jpg").resize(
        (SIDE, SIDE), Image.Resampling.LANCZOS
    )
    mask = Image.open((root / "segmentations" / name).with_suffix(".png"))
    labels = np.array(mask.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return to_tensor(image), torch.from_numpy(labels).long()


def pictures(
    model: SecondStage, style: Tensor, style_mask: Tensor, mask: Tensor, seed: int
) -> dict[str, Tensor]:
    """By mechanism."""
    drawn = model.sample({"segmentation": mask[None].repeat(CANDIDATES, 1, 1)}, seed=seed)
    ways = {"one sample": drawn[0]}
    target = ColourStyle.of(style)
    for count in (4, CANDIDATES):
        ways[f"best of {count}"] = drawn[nearest(target, list(drawn[:count]))]
    for name in list(ways):
        for strength in (0.6, 1.0):
            moved = ColourStyle.of(style, strength).apply(ways[name][None])[0]
            ways[f"{name}, moved by {strength}"] = moved
    # The style picture as known context to the left
    wide = torch.cat([style_mask, mask], dim=1)[None]
    image = torch.cat([style, torch.zeros_like(style)], dim=2)[None]
    known = torch.arange(2 * SIDE).expand(1, SIDE, -1) < SIDE
    beside = model.sample({"segmentation": wide}, seed=seed, known=(image, known), hop=4)
    return {**ways, "drawn beside it": beside[0, :, :, SIDE:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/intel_landscapes"))
    arguments = parser.parse_args()
    model, segmenter = taming.load("landscapes"), load_segmenter()
    names = (arguments.data / "validation.txt").read_text().split()
    order = np.random.default_rng(23).permutation(len(names))
    figures: dict[str, list[tuple[float, float]]] = {}
    for i in range(arguments.pairs):
        style, style_mask = pair(arguments.data, names[order[2 * i]])
        _, mask = pair(arguments.data, names[order[2 * i + 1]])
        for name, picture in pictures(model, style, style_mask, mask, i).items():
            with torch.no_grad():
                agreement = segment(segmenter, picture[None]).argmax(dim=1)[0] == mask
            values = (ColourStyle.of(style).distance(picture), float(agreement.float().mean()))
            figures.setdefault(name, []).append(values)
    for name, values in figures.items():
        array = np.array(values)
        error = array.std(axis=0, ddof=1) / len(array) ** 0.5
        print(
            f"{name:28} distance {array[:, 0].mean():5.1f} +- {error[0]:.1f},"
            f" agreement {100 * array[:, 1].mean():.1f} +- {100 * error[1]:.1f} %"
        )


if __name__ == "__main__":
    main()
