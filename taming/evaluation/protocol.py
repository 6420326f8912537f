"""Figures and the protocol that made them: a value without its stamp means nothing, and two values
may be compared only where their stamps agree.
"""

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from taming import __version__
from taming.errors import UserError, first_line
from taming.evaluation.frechet import Moments
from taming.evaluation.intervals import Estimate
from taming.files import write_atomically

PACKAGES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy")
# What two sets of features must share to be compared
SAME = ("features_sha256", "layer", "resize", "feature_size", "size", "input", "precision")


@dataclass
class Figure:
    """One number: an estimate (see `intervals.Estimate`), its stamp's id, and a note on what it is
    over.
    """

    name: str
    value: float
    stamp: str
    n: int
    low: float | None = None
    high: float | None = None
    interval: str = "none"
    note: str = ""
    bias: float | None = None


@dataclass
class Figures:
    """All figures of one evaluation.

    Args:
        figures: by name.
        stamps: what the figures' stamps say, by id.
        missing: what was not measured, and why.
        warnings: what to bear in mind when reading the figures.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    stamps: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(
        self, name: str, estimate: Estimate | float, stamp: dict[str, Any], note: str = ""
    ) -> None:
        """Later figures of one name replace earlier ones."""
        if not isinstance(estimate, Estimate):
            estimate = Estimate(float(estimate))
        key = stamp_id(stamp)
        self.stamps[key] = stamp
        self.figures[name] = Figure(
            name,
            estimate.value,
            key,
            estimate.n or stamp.get("pictures", 0),
            estimate.low,
            estimate.high,
            estimate.interval,
            note,
            estimate.bias,
        )

    def __getitem__(self, name: str) -> float:
        return self.figures[name].value

    def __contains__(self, name: str) -> bool:
        return name in self.figures

    def write(self, path: str | Path) -> Path:
        text = json.dumps(asdict(self), indent=1, default=str)
        write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
        return Path(path)

    @classmethod
    def read(cls, path: str | Path) -> "Figures":
        """What `write` wrote, in this or an earlier version; keys of later versions are ignored.

        Raises:
            UserError: no such file, or one that holds something else.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"'{path}' does not exist; taming evaluate writes it") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"'{path}' can't be read ({first_line(error)})") from None
        try:
            return _figures(json.loads(text))
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise UserError(f"'{path}' holds no figures of taming evaluate ({reason})") from None

    def table(self) -> str:
        """Markdown: a row for each figure."""
        lines = [
            "| figure | value | 95 % interval | N | stamp |",
            "| --- | --- | --- | --- | --- |",
        ]
        for f in self.figures.values():
            interval = f"{f.low:.4g} to {f.high:.4g}" if has_interval(f) else "-"
            name = f"{f.name} ({f.note})" if f.note else f.name
            lines.append(f"| {name} | {f.value:.5g} | {interval} | {f.n} | {f.stamp} |")
        lines.append("")
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"not measured: {reason}" for reason in self.missing]
        return "\n".join(lines)


def has_interval(figure: Figure) -> bool:
    """Figures of earlier versions may have NaN at the ends."""
    ends = (figure.low, figure.high)
    return all(end is not None and bool(np.isfinite(end)) for end in ends)


NUMBER = (int, float)
KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "value": NUMBER,
    "stamp": (str,),
    "n": (int,),
    "low": (*NUMBER, type(None)),
    "high": (*NUMBER, type(None)),
    "interval": (str,),
    "note": (str,),
    "bias": (*NUMBER, type(None)),
}


def _figures(plain: Any) -> Figures:
    """Raises ValueError, TypeError or KeyError where a kind is wrong."""
    _expect(plain, dict, "the file")
    _expect(plain["figures"], dict, "figures")
    _expect(plain["stamps"], dict, "stamps")
    figures = {name: _figure(name, value) for name, value in plain["figures"].items()}
    for key, stamp in plain["stamps"].items():
        _expect(stamp, dict, f"stamp '{key}'")
    for name, figure in figures.items():
        if figure.stamp not in plain["stamps"]:
            raise ValueError(f"figure '{name}' has no stamp")
    missing = plain["left"] if "left" in plain else plain["missing"]  # "left": earlier versions
    for lines in (missing, plain["warnings"]):
        _expect(lines, list, "missing or warnings")
        for line in lines:
            _expect(line, str, "an entry of missing or warnings")
    return Figures(figures, plain["stamps"], missing, plain["warnings"])


def _figure(name: str, plain: Any) -> Figure:
    _expect(plain, dict, f"figure '{name}'")
    values = {one.name: plain[one.name] for one in fields(Figure) if one.name in plain}
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, KINDS[key]):
            raise ValueError(f"figure '{name}': {key} is {str(value)[:40]!r}")
        if NUMBER[1] in KINDS[key] and value is not None:
            values[key] = float(value)
    return Figure(**values)


def _expect(value: Any, kind: type, place: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{place} is a {type(value).__name__}, not a {kind.__name__}")


def stamp_of(**protocol: Any) -> dict[str, Any]:
    """A stamp: what was measured and how, and the versions that did it."""
    versions = {name: version(name) for name in PACKAGES}
    return {
        **protocol,
        "input": "8-bit RGB",
        "versions": {"taming": __version__, "python": platform.python_version(), **versions},
    }


def stamp_id(stamp: dict[str, Any]) -> str:
    """Twelve hexadecimal digits, which are equal for equal stamps."""
    return hashlib.sha256(json.dumps(stamp, sort_keys=True, default=str).encode()).hexdigest()[:12]


def array_writer(arrays: dict[str, Any]) -> Callable[[Path], None]:
    """What `write_atomically` takes, for an .npz."""

    def write(path: Path) -> None:
        with open(path, "wb") as stream:
            np.savez_compressed(stream, **arrays)

    return write


def store_reference(path: str | Path, features: Moments, stamp: dict[str, Any]) -> None:
    """Mean, covariance and count of features, with their stamp, as .npz."""
    arrays = {"mean": features.mean, "scatter": features.scatter, "count": features.count}
    text = json.dumps(stamp, default=str)
    write_atomically(path, array_writer({**arrays, "stamp": text}))


def read_reference(path: str | Path, stamp: dict[str, Any] | None = None) -> Moments:
    """The statistics that `store_reference` wrote.

    Args:
        path: the .npz.
        stamp: what they are compared with; None compares nothing.

    Raises:
        UserError: no such file, one that holds something else, or statistics made by another
            protocol than `stamp`; names what differs.
    """
    try:
        reference, stored = _read_moments(path)
    except FileNotFoundError:
        raise UserError(
            f"--reference '{path}' does not exist; --store-reference writes one"
        ) from None
    except Exception as error:  # numpy and zipfile raise many kinds
        reason = " ".join(str(error).split())[:120]
        reason = "no .npz" if "pickle" in reason else reason  # NumPy's advice is to unpickle it
        raise UserError(
            f"--reference '{path}' holds no reference statistics of taming evaluate ({reason})"
        ) from None
    if stamp is None:
        return reference
    expected = json.loads(json.dumps(stamp, default=str))
    differences = [
        f"{name} is {stored.get(name)} there and {expected.get(name)} here"
        for name in SAME
        if stored.get(name) != expected.get(name)
    ]
    if differences:
        raise UserError(
            f"--reference '{path}' was made by another protocol: {'; '.join(differences)}; make it"
            " anew with --store-reference"
        )
    return reference


def _read_moments(path: str | Path) -> tuple[Moments, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        stamp = json.loads(str(file["stamp"]))
        mean, scatter, count = file["mean"], file["scatter"], file["count"]
    _expect(stamp, dict, "stamp")
    if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)) or count.shape:
        raise ValueError(f"shapes {mean.shape}, {scatter.shape}, {count.shape}")
    if not all(array.dtype == np.float64 for array in (mean, scatter)) or count.dtype.kind != "i":
        raise ValueError(f"types {mean.dtype}, {scatter.dtype}, {count.dtype}")
    if count < 2 or not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise ValueError("fewer than two pictures, or NaN")
    reference = Moments(len(mean))
    reference.mean, reference.scatter, reference.count = mean, scatter, int(count)
    return reference, stamp
