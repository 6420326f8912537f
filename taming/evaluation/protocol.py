"""Figures and the protocol that made them: a value without its stamp means nothing, and two values
may be compared only where their stamps agree.
"""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from taming import __version__
from taming.errors import UserError
from taming.evaluation.features import FeatureNetwork
from taming.evaluation.frechet import Moments
from taming.evaluation.intervals import Estimate
from taming.files import write_atomically

PACKAGES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy")
# What two sets of features must share to be compared
SAME = ("features_sha256", "layer", "resize", "feature_size", "size", "input")


@dataclass
class Figure:
    """One number with its interval, the pictures it is over, and the id of its stamp."""

    name: str
    value: float
    stamp: str
    n: int
    low: float | None = None
    high: float | None = None
    interval: str = "none"
    note: str = ""


@dataclass
class Figures:
    """All figures of one evaluation, their stamps by id, and what was not measured and why."""

    figures: dict[str, Figure] = field(default_factory=dict)
    stamps: dict[str, dict] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, name: str, estimate: Estimate | float, stamp: dict, note: str = "") -> None:
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
        )

    def __getitem__(self, name: str) -> float:
        return self.figures[name].value

    def __contains__(self, name: str) -> bool:
        return name in self.figures

    def write(self, path: str | Path) -> Path:
        text = json.dumps(asdict(self), indent=1, default=str)
        write_atomically(path, lambda file: file.write_text(text))
        return Path(path)

    @classmethod
    def read(cls, path: str | Path) -> "Figures":
        try:
            plain = json.loads(Path(path).read_text())
            return cls(
                {k: Figure(**v) for k, v in plain["figures"].items()},
                plain["stamps"],
                plain["left"],
                plain["warnings"],
            )
        except FileNotFoundError:
            raise UserError(f"'{path}' does not exist; taming evaluate writes it") from None
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{path}' holds no figures of taming evaluate ({error})") from None

    def table(self) -> str:
        """Markdown: a row for each figure."""
        lines = [
            "| figure | value | 95 % interval | N | stamp |",
            "| --- | --- | --- | --- | --- |",
        ]
        for f in self.figures.values():
            interval = (
                f"{f.low:.4g} to {f.high:.4g}"
                if f.low is not None and np.isfinite([f.low, f.high]).all()
                else "-"
            )
            lines.append(
                f"| {f.name}{f' ({f.note})' if f.note else ''} | {f.value:.5g} | {interval} | {f.n}"
                f" | {f.stamp} |"
            )
        return "\n".join(
            [
                *lines,
                "",
                *(f"warning: {w}" for w in self.warnings),
                *(f"not measured: {why}" for why in self.left),
            ]
        )


def stamp_of(**what) -> dict:
    """A protocol: `what` was measured, and the versions that did it."""
    versions = {name: version(name) for name in PACKAGES}
    return {
        **what,
        "input": "8-bit RGB",
        "versions": {"taming": __version__, "python": platform.python_version(), **versions},
    }


def stamp_id(stamp: dict) -> str:
    return hashlib.sha256(json.dumps(stamp, sort_keys=True, default=str).encode()).hexdigest()[:12]


def list_hash(dataset) -> str:
    """Of the names and sizes of the files that a data set is made of; of its description where it
    has no files.
    """
    if hasattr(dataset, "files"):
        told = [[f.name, f.stat().st_size] for i in range(len(dataset)) for f in dataset.files(i)]
    else:
        told = [
            (
                repr(dataset)
                if type(dataset).__repr__ is not object.__repr__
                else type(dataset).__name__
            ),
            len(dataset),
        ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def store_reference(path: str | Path, found: Moments, stamp: dict) -> None:
    """Mean, covariance and count of features, with their stamp, as .npz."""

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez_compressed(
                stream,
                mean=found.mean,
                scatter=found.scatter,
                count=found.count,
                stamp=json.dumps(stamp, default=str),
            )

    write_atomically(path, write)


def read_reference(path: str | Path, stamp: dict) -> Moments:
    """Raises UserError where the statistics were made by another protocol than `stamp`, naming what
    differs.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            theirs = json.loads(str(file["stamp"]))
            mean, scatter, count = file["mean"], file["scatter"], int(file["count"])
    except FileNotFoundError:
        raise UserError(
            f"--reference '{path}' does not exist; --store-reference writes one"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--reference '{path}' holds no reference statistics of taming evaluate ({error})"
        ) from None
    ours = json.loads(json.dumps(stamp, default=str))
    differing = [name for name in SAME if theirs.get(name) != ours.get(name)]
    if differing:
        told = "; ".join(
            f"{name} is {theirs.get(name)} there and {ours.get(name)} here" for name in differing
        )
        raise UserError(
            f"--reference '{path}' was made by another protocol: {told}; make it anew with"
            " --store-reference"
        )
    found = Moments(len(mean))
    found.mean, found.scatter, found.count = mean, scatter, count
    return found


def feature_stamp(network: FeatureNetwork, size, dataset, **more) -> dict:
    return stamp_of(
        **network.stamp(),
        size=list(size) if size else None,
        pictures=len(dataset),
        data_sha256=list_hash(dataset),
        **more,
    )
