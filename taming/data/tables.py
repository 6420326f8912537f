"""Tables of Apache Arrow: parquet files, and the .arrow files of Hugging Face's data sets. Nothing
in them is run: columns of plain types, pictures as the bytes of their files.
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taming.errors import UserError, first_line

FEATURES = "huggingface"
"""The key of a schema's metadata under which Hugging Face says what columns mean."""


def arrow() -> Any:
    """pyarrow, which is an optional dependency. Raises UserError."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(
            "parquet and arrow files need pyarrow: pip install 'taming[tables]'"
        ) from None
    return importlib.import_module("pyarrow")


def open_table(path: Path) -> Any:
    """A pyarrow table of a .parquet or .arrow file, its memory mapped where that goes. Raises
    UserError.
    """
    pa = arrow()
    try:
        if path.suffix == ".parquet":
            return pa.parquet.read_table(str(path), memory_map=True)
        with pa.memory_map(str(path)) as source:
            try:
                return pa.ipc.open_stream(source).read_all()
            except pa.ArrowInvalid:
                return pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"'{path}' is no readable table ({first_line(error)})") from None


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, of the columns that are wanted and there."""
    table = open_table(path)
    names = [name for name in table.column_names if name in columns]
    if not names:
        raise UserError(f"'{path}' has the columns {', '.join(table.column_names)}")
    yield from table.select(names).to_pylist()
