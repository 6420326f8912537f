"""`taming report`: one or several runs side by side on one page: figures with intervals, curves,
pictures, what differs in their configurations, diagnoses. What a run lacks, or what can't be read,
is a gap on the page.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from PIL import Image

from taming.data.legend import Colour
from taming.errors import UserError
from taming.evaluation import doctor, report
from taming.evaluation.metrics import read_metrics
from taming.evaluation.path import label_table, table, verdict
from taming.evaluation.protocol import Figure, Figures, has_interval
from taming.evaluation.report import Section
from taming.evaluation.words import label
from taming.files import folder_beside, write_atomically
from taming.inference.models import legend_for

LARGEST = 4_900_000  # bytes of a page
SMALL = 100_000  # bytes of a picture that is taken as it is
QUALITIES = ((85, 1000), (70, 700), (55, 450))  # of JPEGs, and their width: the first that fits
CURVES = (
    ("Negative log-likelihood, nats", ("train/nll", "validation/nll", "validation/unigram")),
    (
        "Error of reconstructions",
        ("train/l1", "validation/l1", "train/cross_entropy", "validation/cross_entropy"),
    ),
    ("PSNR of validation pictures, dB", ("validation/psnr", "evaluation/psnr")),
    ("Share of codes in use", ("train/used", "validation/used")),
    ("Perplexity of the codes", ("validation/perplexity",)),
    ("Discriminator", ("train/discriminator",)),
    ("Adaptive weight", ("train/adaptive_weight",)),
    (
        "Frechet distance on a few pictures",
        ("evaluation/fid", "evaluation/fd", "evaluation/rfid", "evaluation/rfd"),
    ),
    (
        "Kernel distance on a few pictures",
        ("evaluation/kid", "evaluation/kd", "evaluation/rkid", "evaluation/rkd"),
    ),
    ("Learning rate", ("train/learning_rate",)),
)
PICTURES = {
    "samples.png": "Samples, each beside the layout that it was drawn from, where there is one",
    "reconstructions.png": (
        "Reconstructions: picture and what comes back; the worst four, the median four, the best"
        " four by PSNR"
    ),
    "nearest.png": (
        "Nearest neighbours: the samples that lie nearest to a training picture (left), and that"
        " picture (right)"
    ),
    "codes.png": "What single codes decode to, the most frequent first",
}
EXPLANATION = (
    "An arrow points to where better is. In brackets 95 % intervals; how they came about, and the"
    " protocol of each figure, stands at the end."
)
STAR = " A star: the protocols differ, so that row is not to be compared from run to run."


def write(
    runs: Sequence[str | Path], out: str | Path = "report.html", allow: Sequence[str] = ()
) -> Path:
    """Writes the page, and the plots as PNG into a folder of the same name.

    Args:
        runs: folders of taming train.
        out: the .html.
        allow: packages of one's own that the checkpoints may name.

    Raises:
        UserError: a folder that is no run, a damaged metrics.csv, too many runs for one page.
    """
    # 1. the runs
    folders, out = [Path(run) for run in runs], Path(out)
    for folder in folders:
        if not (folder / "metrics.csv").is_file():
            raise UserError(
                f"run '{folder}' does not exist, or has no metrics.csv; give folders of taming"
                " train, such as runs/NAME"
            )
        if folder.resolve() == out.with_suffix("").resolve():
            raise UserError(
                f"-o {out}: the plots would go into the run '{folder}'; choose another name"
            )
    names = _names(folders)
    # 2. what does not depend on the pictures' size
    figures = [_figures_of(folder) for folder in folders]
    with folder_beside(out) as beside:
        plots = _plots(names, folders, beside)
    before = [
        _figures(names, figures),
        *_paths(names, figures),
        Section("What taming doctor says", rows=_diagnoses(names, folders, allow)),
        Section("Curves", pictures=plots),
    ]
    after = [*_differences(names, folders), _stamps(names, figures)]
    # 3. the page, with pictures as large as it may be
    text = ""
    legends = [_legend(folder, allow) for folder in folders]
    for quality, width in QUALITIES:
        middle = [
            _run(name, folder, legend, quality, width)
            for name, folder, legend in zip(names, folders, legends)
        ]
        text = report.page(f"taming: {', '.join(names)}", [*before, *middle, *after])
        if len(text.encode()) <= LARGEST:
            return report.write_page(out, text)
    raise UserError(
        f"the page would be {len(text.encode()) / 1e6:.1f} MB; report fewer than {len(folders)}"
        " runs on one page"
    )


def _names(folders: list[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"run '{folders[0]}' is given twice; name each run once")


def _figures_of(folder: Path) -> Figures:
    """What taming evaluate wrote into the run, and what validation said last."""
    figures = Figures()
    if (folder / "figures.json").is_file():
        try:
            figures = Figures.read(folder / "figures.json")
        except UserError as error:
            figures.warnings.append(str(error))
    last = {}
    for batch, name, value in read_metrics(folder / "metrics.csv"):
        if name.startswith("validation/"):
            last[name] = batch, value
    for name, (batch, value) in last.items():
        stamp = {"measured by": "validation during training", "batch": batch}
        figures.add(name, value, stamp)
    return figures


def _figures(names: list[str], runs: list[Figures]) -> Section:
    """A row for each figure, a column for each run."""
    text, rows = EXPLANATION, []
    for name in dict.fromkeys(name for figures in runs for name in figures.figures):
        cells = [_cell(figures.figures.get(name)) for figures in runs]
        protocols = {
            _comparable(figures.stamps[figures.figures[name].stamp])
            for figures in runs
            if name in figures
        }
        title = label(name)
        if len(protocols) > 1:
            title, text = f"{title} *", EXPLANATION + STAR
        rows.append((title, *cells))
    warnings = []
    for name, figures in zip(names, runs):
        warnings += [f"{name}: {warning}" for warning in figures.warnings]
    return Section(
        "Figures",
        text,
        rows=[("", *names), *rows] if rows else [],
        folded=[("warnings", "\n".join(warnings))] if warnings else [],
    )


def _paths(names: list[str], runs: list[Figures]) -> list[Section]:
    """For each run what limits it: the figures of each step from photographs to samples."""
    sections = []
    for name, figures in zip(names, runs):
        words = " ".join(verdict(figures))
        for title, rows in (
            ("From photographs to samples", table(figures)),
            ("Labels that are found again (intersection over union)", label_table(figures)),
        ):
            if rows:
                sections.append(Section(f"{title}: {name}", words, rows=rows))
                words = ""
    return sections


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    interval = f" ({figure.low:.4g} to {figure.high:.4g})" if has_interval(figure) else ""
    return f"{figure.value:.5g}{interval}"


def _comparable(stamp: dict[str, Any]) -> str:
    """What must agree: all but what is measured itself, the model or its samples."""
    apart = {"checkpoint_sha256", "sampling", "batch", "versions"}
    if "sampling" in stamp:
        apart.add("data_sha256")
    return str(sorted((key, str(value)) for key, value in stamp.items() if key not in apart))


def _diagnoses(
    names: list[str], folders: list[Path], allow: Sequence[str]
) -> list[tuple[str, ...]]:
    rows = []
    for name, folder in zip(names, folders):
        try:
            diagnoses = doctor.examine(folder, allow)
            text = " ".join(map(str, diagnoses)) or "nothing wrong was found"
        except UserError as error:
            text = str(error)
        rows.append((name, text))
    return rows


def _plots(names: list[str], folders: list[Path], out: Path) -> list[tuple[str, bytes]]:
    """A plot for each group of curves that any run has; all runs in one."""
    metrics = [read_metrics(folder / "metrics.csv") for folder in folders]
    plots = []
    for title, curves in CURVES:
        rows, labels = [], []
        for name, run in zip(names, metrics):
            for curve in curves:
                label = f"{name}: {curve}" if len(names) > 1 else curve
                points = [(batch, label, value) for batch, key, value in run if key == curve]
                if points:
                    rows, labels = rows + points, [*labels, label]
        if rows:
            plots.append((title, report.plot(rows, labels)))
    for title, picture in plots:
        file = out / f"{title.split(',')[0].lower().replace(' ', '_')}.png"
        write_atomically(file, lambda path, picture=picture: path.write_bytes(picture))
    return plots


def _legend(folder: Path, allow: Sequence[str]) -> list[tuple[str, Colour]]:
    """Names and colours of the labels that its pictures show; none where it knows no labels."""
    try:
        legend = legend_for(folder, allow)
    except UserError:  # what is wrong with it stands among the diagnoses
        return []
    return list(zip(legend.names, legend.label_colours())) if legend else []


def _run(
    name: str, folder: Path, legend: Sequence[tuple[str, Colour]], quality: int, width: int
) -> Section:
    """The pictures of a run, with the legend of their layouts, and its configuration."""
    files = {
        folder / "figures" / file: caption
        for file, caption in PICTURES.items()
        if (folder / "figures" / file).is_file()
    }
    last = report.last_picture(folder)
    if last is not None:
        files = {last[1]: f"Validation pictures at batch {last[0]}", **files}
    pictures, unreadable = [], []
    for path, caption in files.items():
        try:
            pictures.append((caption, _small(path, quality, width)))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            unreadable.append(f"'{path}' is not a readable picture.")
    return Section(
        name,
        " ".join(unreadable),
        pictures=pictures,
        legend=legend if pictures else (),
        folded=report.configuration(folder),
    )


def _small(path: Path, quality: int, width: int) -> bytes:
    """The file itself where it is small, else a JPEG that is no wider than `width`."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    if path.stat().st_size < SMALL and quality == QUALITIES[0][0]:
        return path.read_bytes()
    if picture.width > width:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def _differences(names: list[str], folders: list[Path]) -> list[Section]:
    """What the configurations do not agree on; nothing where there is one run."""
    if len(folders) < 2:
        return []
    trees = [_configuration(folder / "config.yaml") for folder in folders]
    unreadable = [name for name, tree in zip(names, trees) if tree is None]
    if unreadable:
        text = f"No readable config.yaml in {', '.join(unreadable)}."
        return [Section("What differs in the configurations", text)]
    flat = [_flat(tree) for tree in trees]
    rows = []
    for key in dict.fromkeys(key for tree in flat for key in tree):
        values = [tree.get(key, "-") for tree in flat]
        if len(set(values)) > 1:
            rows.append((key, *values))
    return [
        Section(
            "What differs in the configurations",
            "" if rows else "Nothing.",
            rows=[("", *names), *rows] if rows else [],
        )
    ]


def _configuration(path: Path) -> Any:
    """The tree in a YAML file; None where it can't be read."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except Exception:  # PyYAML and OmegaConf raise many kinds
        return None


def _flat(tree: Any, place: str = "") -> dict[str, str]:
    """{"a.b": value} of {"a": {"b": value}}."""
    if not isinstance(tree, dict) or not tree:
        return {place: str(tree)}
    flat = {}
    for name, inner in tree.items():
        flat |= _flat(inner, f"{place}.{name}" if place else str(name))
    return flat


def _stamps(names: list[str], runs: list[Figures]) -> Section:
    """The protocol of every figure, folded."""
    folded = []
    for name, figures in zip(names, runs):
        lines = []
        for f in figures.figures.values():
            note = f"; {f.note}" if f.note else ""
            lines.append(f"{f.name}: stamp {f.stamp}, N {f.n}; interval: {f.interval}{note}")
        for key, stamp in figures.stamps.items():
            entries = "\n  ".join(f"{entry}: {value}" for entry, value in stamp.items())
            lines.append(f"\nstamp {key}\n  {entries}")
        lines += ["", *(f"not measured: {reason}" for reason in figures.missing)]
        folded.append((name, "\n".join(lines)))
    return Section(
        "Protocols", "What made each figure, and how its interval came about.", folded=folded
    )
