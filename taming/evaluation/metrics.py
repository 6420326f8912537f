"""metrics.csv, what training logs: the one reader."""

import csv
from pathlib import Path

from taming.errors import UserError

COLUMNS = ("batch", "name", "value")


def read_metrics(path: str | Path) -> list[tuple[int, str, float]]:
    """The rows (batch, name, value) of a metrics.csv.

    A last row without its end of line was cut off by a kill or a full disk, and is left out.

    Raises:
        UserError: the file can't be read, or a line is no row; names the line.
    """
    lines = _text(Path(path)).split("\n")[:-1]
    if not lines:
        return []
    header = lines[0].split(",")
    if not set(COLUMNS) <= set(header):
        raise UserError(
            f"'{path}' line 1: {lines[0][:60]!r} should be {','.join(COLUMNS)}; is it the"
            " metrics.csv of a run?"
        )
    places = [header.index(column) for column in COLUMNS]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            cells = next(csv.reader([line]), None)
            if cells is None:  # an empty line
                continue
            batch, name, value = (cells[place] for place in places)
            if not 0 <= int(batch) < 2**63:
                raise ValueError(batch)
            if value:
                rows.append((int(batch), name, float(value)))
        except (ValueError, IndexError, csv.Error):
            raise UserError(
                f"'{path}' line {number}: {line[:60]!r} is no row {','.join(COLUMNS)}; delete or"
                " repair the line"
            ) from None
    return rows


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"'{path}' can't be read ({error.strerror})") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"'{path}' line {line} is not UTF-8 text; delete or repair it") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
