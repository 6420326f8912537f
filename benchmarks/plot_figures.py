"""The plots of docs/family.md, evaluation.md and troubleshooting.md, from the figures that are kept
beside them: docs/family.json, figures.json and curves.json.

    python benchmarks/plot_figures.py
"""

import io
import json
import math
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from taming.files import write_atomically

DOCS = Path(__file__).resolve().parents[1] / "docs"
SAMPLES = (
    ("fd", "Frechet distance (VGG16), lower is better"),
    ("kd", "kernel distance (VGG16), lower is better"),
    ("precision", "precision, higher is better"),
    ("coverage", "coverage, higher is better"),
)
LANDSCAPES = ("precision", "recall", "coverage", "layout_accuracy", "layout_iou")
FIRST = (
    ("validation/psnr", "PSNR of validation, dB"),
    ("validation/used", "share of codes in use"),
    ("validation/perplexity", "perplexity of 256 codes"),
    ("train/quantizer", "quantizer's part of the loss"),
    ("train/discriminator", "discriminator's loss"),
    ("train/adaptive_weight", "adaptive weight"),
)
RUNS = {"landscapes_guided": "guidance 3, top-p 0.9", "landscapes_plain": "guidance 1"}


def main() -> None:
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "taming", "font.size": 9})
    family = json.loads((DOCS / "family.json").read_text())
    models = json.loads((DOCS / "figures.json").read_text())["models"]
    figures = {
        "family_first_stages": first_stages(family["first_stages"]["values"]),
        "family_codebooks": codebooks(family["codebook_use"]),
        "family_beta": beta(family["beta"]),
        "evaluation_systems": systems(models),
        "evaluation_landscapes": landscapes(models),
    }
    if (DOCS / "curves.json").is_file():  # of bench_curves.py
        curves = json.loads((DOCS / "curves.json").read_text())
        figures["curves_first_stage"] = first_stage_curves(curves["first"])
        figures["curves_prior"] = prior_curves(curves["second"])
    for name, figure in figures.items():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        text = "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
        write_atomically(DOCS / f"{name}.svg", lambda file, text=text: file.write_text(text))


def first_stages(values: dict[str, dict[str, Any]]) -> Figure:
    """PSNR with its spread over seeds, and the share of codes in use."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(next(iter(values.values())))[::-1]
    for shift, (data, rows) in zip((0.18, -0.18), values.items()):
        places = [place + shift for place in range(len(names))]
        psnr = [rows[name]["psnr"] for name in names]
        spread = [(pair[1] or 0) / 2 for pair in psnr]
        left.errorbar([pair[0] for pair in psnr], places, xerr=spread, fmt="o", ms=4, label=data)
        used = [rows[name]["used"] or 0 for name in names]
        right.barh(places, used, 0.34)
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("PSNR, dB; bars: half the spread of three seeds")
    right.set_xlabel("share of the codes in use")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    _grid(left, right)
    return figure


def codebooks(use: dict[str, Any]) -> Figure:
    """Codes in use, and PSNR, over the size of the codebook."""
    curves = {}
    for name, rows in use["values"].items():
        shares, _, psnr = zip(*rows)
        curves[name] = (shares, psnr)
    figure, left, right = _two_panels(use["num_codes"], curves, height=3.2)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("K, codes in the codebook")
    left.set_ylabel("% of the codes used")
    right.set_ylabel("PSNR, dB")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def beta(sweep: dict[str, Any]) -> Figure:
    """Squared error and codes used over beta."""
    curves = {name: tuple(zip(*rows)) for name, rows in sweep["values"].items()}
    figure, left, right = _two_panels(sweep["beta"], curves, height=2.8)
    left.set(xscale="log", xlabel="beta", ylabel="squared error, held out")
    right.set(xscale="log", xlabel="beta", ylabel="codes used of 64")
    left.legend(frameon=False)
    return figure


def _two_panels(
    x: list[float], curves: dict[str, tuple[Any, ...]], height: float
) -> tuple[Figure, Axes, Axes]:
    """Side by side the first and the second curve of each name over x."""
    figure = Figure(figsize=(8, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (first, second) in curves.items():
        left.plot(x, first, marker=".", label=name)
        right.plot(x, second, marker=".")
    _grid(left, right)
    return figure, left, right


def first_stage_curves(seeds: dict[str, Any]) -> Figure:
    """What is worth watching of a VQ-GAN, a panel each."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 3).flat, FIRST):
        _band(axis, seeds, name, "C0", "")
        axis.set(title=title, xlabel="batch")
        _grid(axis)
    return figure


def prior_curves(seeds: dict[str, Any]) -> Figure:
    """A prior's surprise, beside what a table of the codes' frequencies would pay."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    _band(axis, seeds, "train/nll", "C1", "training")
    _band(axis, seeds, "validation/nll", "C0", "validation")
    _band(axis, seeds, "validation/unigram", "grey", "unigram")
    axis.axhline(math.log(256), color="grey", ls=":", label="log K: knows nothing")
    axis.set(xlabel="batch", ylabel="nats per code")
    axis.legend(frameon=False)
    _grid(axis)
    return figure


def _band(axis: Axes, seeds: dict[str, Any], name: str, colour: str, label: str) -> None:
    """The mean of the seeds, and from the smallest to the largest of them."""
    batches = [[batch for batch, _ in curves[name]] for curves in seeds.values()]
    values = list(zip(*([value for _, value in curves[name]] for curves in seeds.values())))
    low, high = ([end(row) for row in values] for end in (min, max))
    axis.fill_between(batches[0], low, high, color=colour, alpha=0.25, lw=0)
    axis.plot(batches[0], [sum(row) / len(row) for row in values], color=colour, label=label)


def systems(models: dict[str, Any]) -> Figure:
    """Samples of each system against photographs, with intervals; dashed: held-out photographs in
    their place.
    """
    names = [name for name in models if "fd" in models[name] and name not in RUNS][::-1]
    figure = Figure(figsize=(8, 5), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(2, 2, sharey=True).flat, SAMPLES):
        for place, name in enumerate(names):
            _interval(axis, models[name][key], place, "C0")
        real = models[names[0]].get(f"{key}_real")
        if real:
            axis.axvline(real[0], color="grey", ls="--", lw=1)
        axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axis.set_xlabel(title)
        _grid(axis)
    return figure


def landscapes(models: dict[str, Any]) -> Figure:
    """The shipped model with and without guidance, and photographs in the samples' place."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axis = figure.subplots()
    for row, (run, label) in enumerate(RUNS.items()):
        for place, key in enumerate(LANDSCAPES):
            _interval(axis, models[run][key], place + 0.2 * (row - 1), f"C{row}", label)
    guided = models["landscapes_guided"]
    for place, key in enumerate(LANDSCAPES):
        real = key.replace("layout", "layout_real") if "layout" in key else f"{key}_real"
        _interval(axis, guided[real], place + 0.2, "grey", "held-out photographs")
    axis.set_yticks(range(len(LANDSCAPES)), [key.replace("_", " ") for key in LANDSCAPES])
    axis.set_xlim(0, 1)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(*zip(*dict(zip(labels, zip(handles, labels))).values()), frameon=False)
    _grid(axis)
    return figure


def _interval(axis: Axes, row: list, place: float, colour: str, label: str | None = None) -> None:
    value, low, high = row[:3]
    error = [[max(0.0, value - low)], [max(0.0, high - value)]] if low is not None else None
    axis.errorbar([value], [place], xerr=error, fmt="o", ms=4, color=colour, label=label)


def _grid(*axes: Axes) -> None:
    for axis in axes:
        axis.grid(alpha=0.3)


if __name__ == "__main__":
    main()
