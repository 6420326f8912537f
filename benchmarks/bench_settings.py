"""Variety against faithfulness: recall and layout agreement of a model over settings of sampling,
each with its interval, on the same layouts, seed and judge; and the plot of them.

    python -m benchmarks.bench_settings landscapes --pictures 128
    python -m benchmarks.bench_settings landscapes --plot

Rows go to docs/settings.json as they are made (one that is there is not made again); the plot is
docs/settings.svg.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from taming.files import write_atomically

DOCS = Path(__file__).resolve().parents[1] / "docs"
DATA = "../shared/data/intel_landscapes"
FEATURES = "../shared/weights/vgg16_imagenet_features_fp16.safetensors"
KEYS = ("layout_accuracy", "layout_iou", "recall", "precision", "coverage", "fd", "kd")
SETTINGS: dict[str, str] = {
    **{
        f"guidance {g}, top-p {p}": f"--guidance {g} --top-p {p}"
        for p in ("1.0", "0.95", "0.9", "0.8")
        for g in ("1", "1.5", "2", "3", "5")
    },
    "cosine to 4, top-p 0.9": "--guidance 4 --top-p 0.9 --guidance-schedule cosine",
    "linear to 4, top-p 0.9": "--guidance 4 --top-p 0.9 --guidance-schedule linear",
    "2 up to half, top-p 0.9": "--guidance 2 --top-p 0.9 --guidance-to 0.5",
    "min-p 0.02, guidance 2": "--guidance 2 --top-p 1.0 --min-p 0.02",
}


def measured(model: str, words: str, pictures: int, segmenter: str) -> dict[str, list[float]]:
    """[value, low, high] of each of KEYS, for samples and, as KEY_real, photographs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [
            *(sys.executable, "main.py", "evaluate", model, "-o", str(out), "--data", DATA),
            *("--pictures", str(pictures), "--train-pictures", str(4 * pictures)),
            *("--features", FEATURES, "--segmenter", segmenter, "--only", "generation,layout"),
            *words.split(),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        figures = json.loads(out.read_text())["figures"]
    rows = {}
    for key in KEYS:
        for name in (key, f"{key}_real", key.replace("layout", "layout_real")):
            if name in figures:
                rows[name] = [figures[name][part] for part in ("value", "low", "high")]
    return rows


def plot(rows: dict[str, dict]) -> Figure:
    """Each curve is one truncation over guidance; the cross: photographs."""
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "taming", "font.size": 9})
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axis = figure.subplots()
    curves: dict[str, list[str]] = {}
    for name in rows:
        curve = name.split(", ")[1] if name.startswith("guidance") else "schedules, min-p"
        curves.setdefault(curve, []).append(name)
    for number, (curve, names) in enumerate(sorted(curves.items())):
        names.sort(key=lambda name: float(name.split()[1].strip(",")) if "guid" in name[:4] else 0)
        line = "-" if curve.startswith("top-p") else ""
        points = [(rows[name]["layout_accuracy"], rows[name]["recall"]) for name in names]
        draw(axis, points, f"C{number}", curve, line)
        for name, (x, y) in zip(names, points):
            label = name.split(", ")[0].removeprefix("guidance ")
            axis.annotate(label, (x[0], y[0]), (3, 3), textcoords="offset points", fontsize=7)
    first = next(iter(rows.values()))
    real = [(first["layout_real_accuracy"], first["recall_real"])]
    draw(axis, real, "grey", "held-out photographs", "")
    axis.set(xlabel="pixels that agree with the layout", ylabel="recall")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def draw(axis: Axes, points: list, colour: str, label: str, line: str) -> None:
    values = [[point[k][0] for point in points] for k in (0, 1)]
    errors = [
        [
            [max(0.0, p[k][0] - p[k][1]) for p in points],
            [max(0.0, p[k][2] - p[k][0]) for p in points],
        ]
        for k in (0, 1)
    ]
    axis.errorbar(
        *values, *reversed(errors), fmt=f"o{line}", ms=3, lw=0.8, color=colour, label=label
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--segmenter", default="landscapes_segmenter")
    parser.add_argument("--only", nargs="*", help="some settings, by their beginning")
    parser.add_argument("--plot", action="store_true", help="only draw what was measured")
    options = parser.parse_args()
    file = DOCS / "settings.json"
    rows = json.loads(file.read_text()) if file.is_file() else {}
    for name, words in SETTINGS.items():
        if options.plot or name in rows:
            continue
        if options.only and not name.startswith(tuple(options.only)):
            continue
        rows[name] = measured(options.model, words, options.pictures, options.segmenter)
        file.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, {key: round(row[0], 3) for key, row in rows[name].items()}, flush=True)
    buffer = io.StringIO()
    plot(rows).savefig(buffer, format="svg", metadata={"Date": None})
    text = "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
    write_atomically(DOCS / "settings.svg", lambda target: target.write_text(text))


if __name__ == "__main__":
    main()
