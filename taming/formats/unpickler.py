"""Pickled checkpoints that torch's safe loader refuses, read without running anything: tensors are
rebuilt, all else stays inert.
"""

import pickle
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch

from taming.errors import UserError

DATA_MODULES = (  # packages whose objects old checkpoints carry along; they become inert
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "omegaconf",
    "taming",
    "ldm",
    "main",
    "__main__",
    "pathlib",
    "argparse",
    "typing",
    "enum",
    "datetime",
    "numpy",
    "collections",
)


MODULE_DEPTH = 32  # of networks in networks


class _Rebuilder:
    """Calls a function, and lets pickle's BUILD set nothing on it, as it could on the function
    itself.
    """

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setattr__(self, name, value):
        raise UserError(
            f"it asks to change '{self._function.__name__}', which weights have no need of; nothing"
            " was run. Do not trust this file"
        )

    def __setstate__(self, state):
        self.__setattr__("state", state)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Bytes of a numpy scalar. Python would import the codec that a file names."""
    if encoding not in ("latin1", "latin-1"):
        raise UserError(f"it asks for text in '{str(encoding)[:40]}', which weights do not use")
    return text.encode("latin1")


REBUILDERS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Rebuilder(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuilder(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Rebuilder(torch._utils._rebuild_parameter),
    ("_codecs", "encode"): _Rebuilder(_latin1),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): _Rebuilder(torch.device),
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    **{
        ("torch", name): getattr(torch, name)
        for name in dir(torch)
        if isinstance(getattr(torch, name), torch.dtype)
    },
}


class _Module:
    """Stands in for a pickled network, and keeps what was set on it."""

    def __init__(self, *arguments, **keywords):
        pass

    def __setstate__(self, state):
        if isinstance(state, dict):
            vars(self).update(state)


class _Inert(type):
    """The class of stand-ins: to name one is harmless, to make or call one is refused unless its
    package only carries data.
    """

    def __call__(cls, *arguments, **keywords):
        return cls.__new__(cls)  # type: ignore[call-arg]  # its own, see _stand_in


def _stand_in(module: str, name: str) -> type:
    def make(cls, *arguments, **keywords):
        if module.split(".")[0] not in DATA_MODULES:
            raise UserError(
                f"it asks to run '{module}.{name}', which weights have no need of; nothing was run."
                " Do not trust this file"
            )
        return object.__new__(cls)

    inert = {
        "__new__": make,
        "__setstate__": lambda self, state: None,
        "__setitem__": lambda self, key, value: None,
        "append": lambda self, item: None,
        "extend": lambda self, items: None,
        "add": lambda self, item: None,
        "__hash__": object.__hash__,
    }
    return _Inert(name.rsplit(".", 1)[-1] or "nameless", (), inert)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        return REBUILDERS.get((module, name)) or _stand_in(module, name)


def _load(file, **options) -> object:
    return _Unpickler(file, **options).load()


RESTRICTED = types.SimpleNamespace(__name__="restricted", Unpickler=_Unpickler, load=_load)


def read_modules(path: Path, packages: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The tensors of a pickled network by their names in its state dict; of its classes, those of
    `packages` become records without methods, and nothing is imported or run.

    Raises:
        UserError: it can't be read, asks to run something, or holds no network.
    """

    class Unpickler(_Unpickler):
        def find_class(self, module: str, name: str):
            if any(f"{module}.".startswith(f"{package}.") for package in packages):
                return _Module
            return super().find_class(module, name)

    def load(file, **options) -> object:
        return Unpickler(file, **options).load()

    network = read_restricted(
        path, types.SimpleNamespace(__name__="modules", Unpickler=Unpickler, load=load)
    )
    tensors = dict(_tensors(network, "", MODULE_DEPTH))
    if not tensors:
        raise UserError(f"'{path}' holds no network with tensors")
    return tensors


def _tensors(node: object, prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Of a module and those in it."""
    if not isinstance(node, _Module) or not depth:
        return
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _entries(node, kind):
            if isinstance(tensor, torch.Tensor):
                yield f"{prefix}{name}", tensor.detach()
    for name, module in _entries(node, "_modules"):
        yield from _tensors(module, f"{prefix}{name}.", depth - 1)


def _entries(node: _Module, kind: str) -> list[tuple[str, object]]:
    entries = vars(node).get(kind)
    if not isinstance(entries, dict):
        return []
    return [(name, value) for name, value in entries.items() if isinstance(name, str)]


def load_torch(path: Path, zipped: bool, **options) -> object:
    """torch.load on the CPU, memory-mapped where it is an archive; of a path torch would go by the
    ending, so that one of safetensors is opened here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what the file may be, where it is refused anyway
        if path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", mmap=zipped, **options)
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", **options)


def read_restricted(path: Path, unpickling: types.SimpleNamespace = RESTRICTED) -> object:
    """What a pickled checkpoint holds, with tensors rebuilt and everything else inert."""
    try:
        with open(path, "rb") as file:
            # What torch goes by; zipfile looks at the end of the file
            zipped = file.read(4) == b"PK\x03\x04"
        if zipped and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise UserError("it is a TorchScript program, not weights")
        return load_torch(path, zipped, weights_only=False, pickle_module=unpickling)
    except UserError as error:
        raise UserError(f"'{path}' is refused: {error}") from None
    except Exception as error:  # pickle raises many kinds
        raise UserError(
            f"'{path}' can't be read as a checkpoint: {type(error).__name__}:"
            f" {' '.join(str(error).split())[:200]}"
        ) from None
