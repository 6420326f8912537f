"""`taming report`: one or several runs side by side on one page: figures with intervals, curves,
pictures, what differs in their configurations, diagnoses.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from PIL import Image

from taming.errors import UserError
from taming.evaluation import doctor, report
from taming.evaluation.metrics import read_metrics
from taming.evaluation.protocol import Figures
from taming.evaluation.report import Section
from taming.files import write_atomically

LARGEST = 4_900_000  # bytes of a page
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
PICTURES = (
    ("samples.png", "Samples, each beside the layout that it was drawn from, where there is one"),
    (
        "reconstructions.png",
        (
            "Reconstructions: picture and what comes back; the worst four, the median four, the"
            " best four by PSNR"
        ),
    ),
    (
        "nearest.png",
        (
            "Nearest neighbours: the samples that lie nearest to a training picture (left), and"
            " that picture (right)"
        ),
    ),
    ("codes.png", "What single codes decode to, the most frequent first"),
)


def write(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Writes the page, and its plots as PNG into a folder beside it; returns its path. Raises
    UserError for a folder that is no run, or where two runs would have one name.
    """
    folders = [Path(run) for run in runs]
    for folder in folders:
        if not (folder / "metrics.csv").is_file():
            raise UserError(
                f"run '{folder}' does not exist, or has no metrics.csv; give folders of taming"
                " train, such as runs/NAME"
            )
    names = _names(folders)
    out = Path(out)
    plots = _plots(names, folders, out.with_suffix(""))
    for quality, width in ((85, 1000), (70, 700), (55, 450)):
        sections = [
            _figures(names, folders),
            *_diagnoses(names, folders),
            Section("Curves", pictures=plots),
        ]
        sections += [_run(name, folder, quality, width) for name, folder in zip(names, folders)]
        sections += [_differences(names, folders), _stamps(names, folders)]
        title = f"taming: {', '.join(names)}"
        page = report.page(title, [section for section in sections if section is not None])
        if len(page.encode()) <= LARGEST:
            break
    else:
        raise UserError(
            f"the page would be {len(page.encode()) / 1e6:.1f} MB; report fewer than {len(folders)}"
            " runs on one page"
        )
    write_atomically(out, lambda file: file.write_text(page))
    return out


def _names(folders: list[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"run '{folders[0]}' is given twice; name each run once")


def _found(folder: Path) -> Figures:
    """What taming evaluate wrote into the run, and what validation said last."""
    known = (
        Figures.read(folder / "figures.json") if (folder / "figures.json").is_file() else Figures()
    )
    last = {
        name: (batch, value)
        for batch, name, value in read_metrics(folder / "metrics.csv")
        if name.startswith("validation/")
    }
    for name, (batch, value) in last.items():
        known.add(name, value, {"measured by": "validation during training", "batch": batch})
    return known


def _figures(names: list[str], folders: list[Path]) -> Section:
    found = [_found(folder) for folder in folders]
    wanted = list(dict.fromkeys(name for figures in found for name in figures.figures))
    rows = []
    for name in wanted:
        cells = []
        for figures in found:
            if name not in figures:
                cells.append("")
                continue
            f = figures.figures[name]
            low_high = (
                f" ({f.low:.4g} to {f.high:.4g})" if f.low is not None and f.low == f.low else ""
            )
            cells.append(f"{f.value:.5g}{low_high}")
        stamps = {
            _comparable(figures.stamps[figures.figures[name].stamp])
            for figures in found
            if name in figures
        }
        rows.append((name + (" *" if len(stamps) > 1 else ""), *cells))
    starred = any(row[0].endswith("*") for row in rows)
    text = (
        "In brackets 95 % intervals; how they came about, and the protocol of each figure, stands"
        " at the end."
    )
    if starred:
        text += " A star: the protocols differ, so that row is not to be compared from run to run."
    warnings = [f"{name}: {w}" for name, figures in zip(names, found) for w in figures.warnings]
    return Section(
        "Figures",
        text,
        rows=[("", *names), *rows] if rows else [],
        folded=[("warnings", "\n".join(warnings))] if warnings else [],
    )


def _comparable(stamp: dict) -> str:
    """What must agree: all but what is measured itself, the model or its samples."""
    own = {"checkpoint_sha256", "sampling", "batch", "versions"} | (
        {"data_sha256"} if "sampling" in stamp else set()
    )
    return str(sorted((k, str(v)) for k, v in stamp.items() if k not in own))


def _diagnoses(names: list[str], folders: list[Path]) -> list[Section]:
    sections = []
    for name, folder in zip(names, folders):
        if (folder / "checkpoints" / "last.ckpt").is_file():
            told = [str(diagnosis) for diagnosis in doctor.examine(folder)]
            sections.append((name, " ".join(told) if told else "nothing wrong was found"))
    return [Section("What taming doctor says", rows=sections)] if sections else []


def _plots(names: list[str], folders: list[Path], folder: Path) -> list[tuple[str, bytes]]:
    """A plot for each group of curves that any run has; all runs in one."""
    metrics = [read_metrics(run / "metrics.csv") for run in folders]
    plots = []
    for title, curves in CURVES:
        rows, labels = [], []
        for name, own in zip(names, metrics):
            for curve in curves:
                label = f"{name}: {curve}" if len(names) > 1 else curve
                found = [(batch, label, value) for batch, key, value in own if key == curve]
                if found:
                    rows, labels = rows + found, [*labels, label]
        if rows:
            picture = report.plot(rows, labels)
            plots.append((title, picture))
            write_atomically(
                folder / f"{title.split(',')[0].lower().replace(' ', '_')}.png",
                lambda file, picture=picture: file.write_bytes(picture),
            )
    return plots


def _run(name: str, folder: Path, quality: int, width: int) -> Section:
    drawn = sorted((folder / "pictures").glob("*.png"))
    pictures = (
        [(f"Validation pictures at batch {int(drawn[-1].stem)}", _small(drawn[-1], quality, width))]
        if drawn
        else []
    )
    pictures += [
        (caption, _small(folder / "figures" / file, quality, width))
        for file, caption in PICTURES
        if (folder / "figures" / file).is_file()
    ]
    config = folder / "config.yaml"
    return Section(
        name,
        pictures=pictures,
        folded=[("configuration", config.read_text())] if config.is_file() else [],
    )


def _small(path: Path, quality: int, width: int) -> bytes:
    """The file itself where it is small, else a JPEG that is no wider than `width`."""
    if path.stat().st_size < 100_000 and quality > 80:
        return path.read_bytes()
    with Image.open(path) as picture:
        shown = picture.convert("RGB")
    if shown.width > width:
        shown = shown.resize(
            (width, round(shown.height * width / shown.width)), Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    shown.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def _differences(names: list[str], folders: list[Path]) -> Section | None:
    if len(folders) < 2 or not all((folder / "config.yaml").is_file() for folder in folders):
        return None
    flat = [
        _flat(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))) for folder in folders
    ]
    keys = [
        key
        for key in dict.fromkeys(k for one in flat for k in one)
        if len({one.get(key, "-") for one in flat}) > 1
    ]
    rows = [(key, *(one.get(key, "-") for one in flat)) for key in keys]
    return Section(
        "What differs in the configurations",
        "" if rows else "Nothing.",
        rows=[("", *names), *rows] if rows else [],
    )


def _flat(tree, place: str = "") -> dict[str, str]:
    if isinstance(tree, dict) and tree:
        return {
            key: value
            for name, inner in tree.items()
            for key, value in _flat(inner, f"{place}.{name}" if place else str(name)).items()
        }
    return {place: str(tree)}


def _stamps(names: list[str], folders: list[Path]) -> Section:
    folded = []
    for name, folder in zip(names, folders):
        figures = _found(folder)
        told = [
            f"{f.name}: stamp {f.stamp}, N {f.n}; interval: {f.interval}"
            + (f"; {f.note}" if f.note else "")
            for f in figures.figures.values()
        ]
        told += [
            f"\nstamp {key}\n  " + "\n  ".join(f"{k}: {v}" for k, v in stamp.items())
            for key, stamp in figures.stamps.items()
        ]
        folded.append(
            (name, "\n".join([*told, "", *(f"not measured: {why}" for why in figures.left)]))
        )
    return Section(
        "Protocols", "What made each figure, and how its interval came about.", folded=folded
    )
