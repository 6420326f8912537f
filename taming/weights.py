"""Files of tensors, safetensors or torch, read without running anything: the one way in for weights
of feature networks, perceptual losses and checkpoints.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from taming.errors import UserError

NO_WEIGHTS = {  # how files begin that people take for weights
    b"version https://git-lfs": "is a pointer of git-LFS, not the file itself; run: git lfs pull",
    b"<!doctype": "is a web page, not weights; download the file itself",
    b"<html": "is a web page, not weights; download the file itself",
    b"<?xml": "is a web page, not weights; download the file itself",
}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a plain weights file, on the CPU; its content says which container it is.

    Raises:
        UserError: no such file, neither container, or something else than tensors by name.
    """
    path = Path(path)
    if is_safetensors(path):
        return read_safetensors(path)[1]
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what the file may be, where it is refused anyway
            # Of a path torch would go by the ending, so it is given the open file
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"'{path}' can't be read as weights ({type(error).__name__}: {reason}); take a"
            " .safetensors file, or a torch file that holds tensors only"
        ) from None
    if not is_tensors(weights):
        raise UserError(f"'{path}' holds no tensors by name; is it a file of weights?")
    return dict(weights)


def is_tensors(weights: object) -> bool:
    """Whether this is a dictionary of names and tensors, and not empty."""
    return (
        isinstance(weights, dict)
        and bool(weights)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items())
    )


def is_safetensors(path: Path) -> bool:
    """By its first bytes: eight for the length of a JSON header, then the header.

    Raises:
        UserError: no such file, an empty one, a web page, a pointer of git-LFS.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"weights file '{path}' can't be read ({error.strerror})") from None
    if not start:
        raise UserError(f"'{path}' is empty; copy or download it again")
    for beginning, meaning in NO_WEIGHTS.items():
        if start.lstrip().lower().startswith(beginning):
            raise UserError(f"'{path}' {meaning}")
    return start[8:9] == b"{"


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except Exception as error:  # safetensors raises many kinds
        raise UserError(
            f"'{path}' can't be read as safetensors ({' '.join(str(error).split())[:120]}); is it"
            " whole? copy or download it again"
        ) from None
