"""metrics.csv, what training logs: the one reader."""

import csv
from pathlib import Path


def read_metrics(path: str | Path) -> list[tuple[int, str, float]]:
    """The rows (batch, name, value) of a metrics.csv."""
    with Path(path).open(newline="") as file:
        return [
            (int(row["batch"]), row["name"], float(row["value"]))
            for row in csv.DictReader(file)
            if row["value"]
        ]
