"""What a PNG holds about how it was drawn: enough to draw it once more."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from taming import __version__, images
from taming.errors import UserError
from taming.files import file_hash
from taming.formats.load import SHIPPED, config_beside, find_checkpoint
from taming.inference.paste import WIDEST
from taming.second_stage.sampling import Sampling

FileHash = tuple[str, str]  # path, and the beginning of its SHA-256; "" for what is no file
HIGHEST = 2**63  # of numbers; seeds and places beyond are no int64


@dataclass(frozen=True)
class Record:
    """Two pictures with equal records have equal codes; with equal `batch`, `row` and `threads`
    on one machine, equal pixels.

    Args:
        checkpoint: what `taming.load` was given; sha256: the beginning of its file's hash.
        config: the YAML that came with a published checkpoint.
        sampling: all settings of the sampler.
        condition: any of {"segmentation": a PNG in base64}, {"image": path and hash}, {"class":
            number}, {"caption": text}, {"boxes": rows}, {"pictures": {entry: path and hash}}.
        known: the picture and the mask of completion.
        edit: the picture of which a region was drawn anew, see `inference.edit.Edit`.
        style: the colours that the picture was given, see `inference.style.ColourStyle`.
        seam: pixels over which what stays of `known` is blended into what is drawn; None: earlier
            versions, which kept its codes only.
        number: which of all pictures; the sampler draws from (seed, number).
        batch: how many were drawn together, `row` which of them it was.
    """

    checkpoint: str
    sha256: str
    sampling: Sampling
    config: FileHash | None = None
    known: tuple[FileHash, FileHash] | None = None
    device: str = "cpu"
    version: str = __version__
    torch: str = torch.__version__
    condition: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    batch: int = 1
    row: int = 0
    threads: int = 1
    edit: dict[str, Any] | None = None
    style: dict[str, Any] | None = None
    seam: int | None = None

    def difference(self, other: "Record") -> str | None:
        """The first setting in which another picture was drawn otherwise; None where it shows the
        same codes.
        """
        settings, others = (
            vars(record) | vars(record.sampling) | {"sampling": None} for record in (self, other)
        )
        for name in settings.keys() - {"batch", "row", "threads"}:
            if settings[name] != others[name]:
                return f"{name} {_brief(others[name])} instead of {_brief(settings[name])}"
        return None

    def metadata(self) -> dict[str, Any]:
        """Plain types; the condition's keys stand beside the others."""
        plain = asdict(self)
        condition = plain.pop("condition")
        for name in ("edit", "style", "seam"):
            if plain[name] is None:
                del plain[name]
        return {**plain, **condition}

    def checkpoint_file(self) -> Path:
        """The file of `checkpoint`; where a shipped model of that name was replaced since, the
        shipped one with the same content.
        """
        path = find_checkpoint(self.checkpoint)
        if path.parent == SHIPPED and file_hash(path) != self.sha256:
            others = sorted(SHIPPED.glob("*.safetensors"))
            return next((file for file in others if file_hash(file) == self.sha256), path)
        return path

    def files(self) -> list[FileHash]:
        """What must be as it was, to draw the picture once more."""
        named = [(str(self.checkpoint_file()), self.sha256), self.config]
        named += [(name.removeprefix("not:"), digest) for name, digest in self.known or ()]
        named += [self.condition.get("image"), *self.condition.get("pictures", {}).values()]
        return [file for file in named if file and file[1]]


def record_of(
    checkpoint: str | Path,
    config: str | Path | None,
    known: tuple[str, str] | None,
    device: str,
    sampling: Sampling,
    seam: int = 0,
) -> Record:
    """What all pictures of one command have in common."""
    config = config or config_beside(checkpoint)
    return Record(
        str(checkpoint),
        file_hash(find_checkpoint(checkpoint)),
        sampling,
        (str(config), file_hash(Path(config))) if config else None,
        (_hashed(known[0]), _hashed(known[1])) if known else None,
        device,
        seam=seam if known else None,
    )


def _hashed(name: str) -> FileHash:
    """A file with its hash; words such as top:0.3 have none."""
    file = Path(str(name).removeprefix("not:"))
    return str(name), file_hash(file) if file.is_file() else ""


def read_record(path: str | Path) -> Record | None:
    """The record in a PNG; None for a picture from elsewhere.

    Raises:
        UserError: the PNG has our mark, but what stands there is malformed.
    """
    try:
        metadata = images.read_metadata(path)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"not JSON: {error}") from None
    return record_in(metadata, path)


def record_in(metadata: Any, path: str | Path) -> Record | None:
    """The record in what a file says about itself; None where it is from elsewhere.

    Raises:
        UserError: it has our mark, but is malformed.
    """
    if not isinstance(metadata, dict) or "checkpoint" not in metadata:
        return None
    for name, is_right in SCHEMA.items():
        if name in metadata and not is_right(metadata[name]):
            raise _malformed(path, f"{name} is {_brief(metadata[name])!r}")
    missing = {"sha256", "number", "batch", "row", "threads"} - metadata.keys()
    if missing:
        raise _malformed(path, f"{min(missing)} is missing")
    if metadata["row"] >= metadata["batch"]:
        raise _malformed(path, f"row {metadata['row']} of a batch of {metadata['batch']}")
    return _record(metadata, path)


def _record(metadata: dict[str, Any], path: str | Path) -> Record:
    names = {one.name for one in fields(Record)} - {"sampling", "condition", "known", "config"}
    config, known = metadata.get("config"), metadata.get("known")
    return Record(
        sampling=_sampling(metadata, path),
        config=(config[0], config[1]) if config else None,
        known=(tuple(known[0]), tuple(known[1])) if known else None,
        condition={name: metadata[name] for name in CONDITIONS if name in metadata},
        **{name: metadata[name] for name in names if name in metadata},
    )


def _sampling(metadata: dict[str, Any], path: str | Path) -> Sampling:
    """Earlier versions wrote the settings beside all other keys."""
    plain = metadata.get("sampling", metadata)
    try:
        names = [one.name for one in fields(Sampling) if one.name in plain]
        return Sampling.of(**{name: plain[name] for name in names})
    except UserError as error:
        raise _malformed(path, str(error)) from None


def _malformed(path: str | Path, reason: str) -> UserError:
    return UserError(f"what '{path}' says about how it was drawn is malformed ({reason})")


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < HIGHEST


def _is_count(value: Any) -> bool:
    return _is_index(value) and value > 0


def _is_few(value: Any) -> bool:
    return _is_count(value) and value <= 4096


def _is_pair(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_right, value))


def _is_file(value: Any) -> bool:
    return _is_pair(value, _is_text)


def _are_boxes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 4096
        and all(isinstance(row, list) and len(row) == 6 for row in value)
        and all(isinstance(n, int | float) and abs(n) < HIGHEST for row in value for n in row)
    )


CONDITIONS: dict[str, Callable[[Any], bool]] = {
    "segmentation": _is_text,
    "image": _is_file,
    "class": _is_index,
    "caption": _is_text,
    "boxes": _are_boxes,
    "pictures": lambda value: isinstance(value, dict) and all(map(_is_file, value.values())),
}
SCHEMA: dict[str, Callable[[Any], bool]] = CONDITIONS | {
    "checkpoint": _is_text,
    "sha256": lambda value: _is_text(value) and value != "",
    "sampling": lambda value: isinstance(value, dict),
    "config": lambda value: value is None or _is_file(value),
    "known": lambda value: value is None or _is_pair(value, _is_file),
    "edit": lambda value: value is None or isinstance(value, dict),
    "style": lambda value: value is None or isinstance(value, dict),
    "device": lambda value: value in ("cpu", "cuda"),
    "version": _is_text,
    "torch": _is_text,
    "seam": lambda value: _is_index(value) and value <= WIDEST,
    "number": _is_index,
    "batch": _is_few,
    "row": _is_index,
    "threads": _is_few,
}
