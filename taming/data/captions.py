"""A table of pictures with captions: CSV, TSV or parquet, one row a picture (or one a caption).

    file,caption                                 file: file_name, path, image, filename or filepath
    lake.jpg,"a lake below mountains at noon"    caption: text, title or description as well

`metadata.csv` beside its pictures is what Hugging Face's ImageFolder reads, too.
"""

from collections.abc import Iterator
from pathlib import Path

from taming.data.folder import Split, ViewParameters, find_list, locate, part_of
from taming.data.interface import PictureSet
from taming.data.records import Record, RecordSet, Seed, read_rows
from taming.data.tables import read_parquet
from taming.errors import UserError

FILES = ("file", "file_name", "filename", "filepath", "path", "image", "image_path")
CAPTIONS = ("caption", "text", "title", "description", "prompt")
CLASSES = ("class", "label", "class_name")
TABLES = (".csv", ".tsv", ".parquet")


class CaptionTable(RecordSet):
    """Pictures with "caption": a random one of their rows; the first in the fixed view. A column
    `class` or `label` gives "class": int, the name's place in alphabetical order.

    Args:
        root: the folder of the pictures.
        table: a .csv, .tsv or .parquet file, looked for in `root`, then from the working folder;
            default: the only one in `root`.
        view: of each picture, see ImageFolder.
        split: see ImageFolder.
        seed: of the split and of the views.
    """

    def __init__(
        self,
        root: str,
        table: str | None = None,
        view: ViewParameters = 256,
        split: Split | None = None,
        seed: Seed = 0,
    ):
        if not Path(root).is_dir():
            raise UserError(f"data folder '{root}' does not exist")
        file = find_list(Path(root), table) if table else only_table(Path(root))
        captions, classes = _grouped(file)
        folders = (Path(root), file.parent, Path())
        self.class_names = sorted(set(classes.values()))
        places = {name: place for place, name in enumerate(self.class_names)}
        records = {}
        for name, words in captions.items():
            path = locate(folders, name, f"'{file}'")
            label = places[classes[name]] if name in classes else None
            records[path] = Record(path, captions=tuple(words), label=label)
        paths = part_of(list(records), split, seed) if split else list(records)
        super().__init__(root, [records[path] for path in paths], view, seed)


def captions_of(dataset: PictureSet, most: int = 2000) -> list[str]:
    """The captions of a data set: all that its records hold, else those of up to so many items.
    Raises UserError for a data set without.
    """
    if isinstance(dataset, RecordSet):
        captions = [words for record in dataset.records for words in record.captions]
    else:
        indices = range(0, len(dataset), max(1, len(dataset) // most))
        items = (dataset[(index, None)] for index in indices)
        captions = [str(item["caption"]) for item in items if "caption" in item]
    if not captions:
        raise UserError(f"{type(dataset).__name__} has no captions, and the prior is to read some")
    return captions


def recognises(root: Path) -> bool:
    tables = _tables(root)
    if len(tables) != 1:
        return False
    try:
        row = next(rows_of(tables[0]), {})
    except UserError:
        return False
    names = set(row)
    return bool(names & set(FILES)) and bool(names & set(CAPTIONS))


def only_table(root: Path) -> Path:
    tables = _tables(root)
    if len(tables) != 1:
        there = ", ".join(path.name for path in tables[:4]) or "none"
        raise UserError(
            f"table: one of {', '.join(TABLES)} in '{root}' is expected; there: {there}"
        )
    return tables[0]


def _tables(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.suffix in TABLES and path.is_file())


def rows_of(file: Path) -> Iterator[dict]:
    if file.suffix == ".parquet":
        return read_parquet(file, (*FILES, *CAPTIONS, *CLASSES))
    return read_rows(file, "\t" if file.suffix == ".tsv" else ",")


def _grouped(file: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Picture -> captions, and picture -> class name, in the table's order. Raises UserError for
    missing columns, and where captions are missing.
    """
    captions: dict[str, list[str]] = {}
    classes: dict[str, str] = {}
    without = []
    for number, row in enumerate(rows_of(file), start=2):
        name, caption = _cell(row, FILES, file), _cell(row, CAPTIONS, file)
        if not name:
            raise UserError(f"'{file}', row {number}: the name of the picture is empty")
        if not caption:
            without.append((number, name))
        captions.setdefault(name, []).append(caption)
        for column in CLASSES:
            if column in row:
                classes[name] = str(row[column])
    if without:
        number, name = without[0]
        raise UserError(
            f"'{file}': {len(without)} of {len(captions)} pictures lack a caption, the first is"
            f" '{name}' in row {number}; write one, or take the rows out"
        )
    if not captions:
        raise UserError(f"'{file}' has no rows")
    return captions, classes


def _cell(row: dict, names: tuple[str, ...], file: Path) -> str:
    """The entry in the column of the first of these names."""
    for name in names:
        if name in row:
            return str(row[name] or "").strip()
    there = ", ".join(row)
    raise UserError(f"'{file}' has the columns {there}; one of {', '.join(names)} is needed")
