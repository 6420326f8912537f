"""What a name in a configuration may stand for.

A tree from a FILE (a checkpoint, a picture, a run folder) names classes of a closed table only:
those that our rooms for models and data export. A YAML of the user's own may also name data sets
and networks of torchvision, and classes of packages that `allow` names. A name is looked at as text
before anything is imported.
"""

import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from taming.errors import UserError, did_you_mean

ROOMS = (
    "taming.first_stage",
    "taming.second_stage",
    "taming.data",
    "taming.segmenter",
    "taming.formats.compvis",
    "taming.formats.llamagen_prior",
    "taming.formats.rar",
)
LIBRARIES = ("torchvision.datasets", "torchvision.models", "torchvision.transforms")
PRETRAINED = "taming.formats.pretrained.pretrained"  # functions, for YAML of one's own only
PRETRAINED_PRIOR = "taming.formats.pretrained.pretrained_prior"
ALIASES = {  # names of earlier versions, which stand in checkpoints and in people's YAML
    "taming.first_stage.pretrained": PRETRAINED,
    "taming.second_stage.pretrained": PRETRAINED_PRIOR,
    "taming.evaluation.Segmenter": "taming.segmenter.Segmenter",
    "taming.first_stage.ScalarQuantizer": "taming.first_stage.FSQ",
    "taming.first_stage.LookupFreeQuantizer": "taming.first_stage.LFQ",
    "taming.first_stage.LinearQuantizer": "taming.first_stage.SimVQ",
}
SEAMS = {  # what belongs where: classes of ours and their own heirs, or whatever has these members
    "model": (
        "taming.first_stage.Autoencoder",
        "taming.second_stage.SecondStage",
        "taming.segmenter.Segmenter",
    ),
    "loss": ("autoencoder", "adversary_weight", "set_length"),
    "data": ("__getitem__", "__len__"),
}
EXAMPLES = {
    "model": "taming.first_stage.VQGAN",
    "loss": "taming.first_stage.VQGANLoss",
    "data": "taming.data.ImageFolder",
}


class ForeignName(UserError):
    """A name outside what its source may name."""


def resolve(target: Any, place: str, allow: Iterable[str] = (), trusted: bool = True) -> Any:
    """The class that `target` names.

    Args:
        target: a dotted name such as taming.first_stage.VQGAN
        place: where it stands, for messages
        allow: further packages whose classes may be named; from the caller, never from a file
        trusted: false for a tree from a file

    Raises:
        UserError: the name is none, there is no such class, or it may not be named (ForeignName).
    """
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(
            f"{place}.target: {target!r} is not a dotted name such as taming.first_stage.VQGAN"
        )
    name = ALIASES.get(target, target)
    room = next((room for room in ROOMS if name.startswith(f"{room}.")), None)
    if room:
        return _export(name.rpartition(".")[2], room, place)
    if name in (PRETRAINED, PRETRAINED_PRIOR) and trusted:
        module, _, function = name.rpartition(".")
        return getattr(importlib.import_module(module), function)
    packages = (*LIBRARIES * trusted, *allow)
    private = any(part.startswith("_") for part in name.split("."))
    if private or not any(name.startswith(f"{package}.") for package in packages):
        raise ForeignName(f"{place}.target: {_refusal(target, trusted)}")
    return _foreign(name, place, {package.split(".")[0] for package in (*LIBRARIES, *allow)})


def class_of(made: Any) -> type:
    """The class of what `made` builds: itself, or what a function returns."""
    return made if inspect.isclass(made) else typing.get_type_hints(made)["return"]


def check_seam(made: Any, target: str, place: str, source: str) -> None:
    """Refuses a class that is not of the kind that belongs at `place`: model, loss or data."""
    kind = place.split(".")[0]
    if any("." in name for name in SEAMS[kind]):
        parts = (name.rpartition(".") for name in SEAMS[kind])
        seams = tuple(getattr(importlib.import_module(room), name) for room, _, name in parts)
        belongs = issubclass(class_of(made), seams)
    else:
        belongs = set(SEAMS[kind]) <= set(dir(made))
    if kind == "data" and "__iter__" in dir(made) and not belongs:
        return  # a torch data set that is read in order
    if not belongs:
        missing = [name for name in SEAMS[kind] if "." not in name and name not in dir(made)]
        lacks = f"; it lacks {', '.join(missing)}" if missing else ""
        base = "; subclass taming.first_stage.losses.FirstStageLoss" if kind == "loss" else ""
        raise UserError(
            f"{source}: {place}.target: {target} stands where a"
            f" {'data set' if kind == 'data' else kind} belongs, for example"
            f" {EXAMPLES[kind]}{lacks}{base}"
        )


@cache
def file_classes() -> dict[str, type]:
    """The closed table: dotted name -> class, of all that a file may name."""
    return {f"{room}.{name}": made for room in ROOMS for name, made in _exports(room).items()}


@cache
def _exports(room: str) -> dict[str, type]:
    """The networks, losses and data sets that a room of ours exports; not the seams themselves."""
    from torch import nn
    from torch.utils.data import Dataset

    module = importlib.import_module(room)
    members = {name: getattr(module, name) for name in getattr(module, "__all__", vars(module))}
    return {
        name: member
        for name, member in members.items()
        if inspect.isclass(member)
        and issubclass(member, nn.Module | Dataset)
        and member.__module__.startswith(room)
        and not member.__module__.endswith(".interface")
    }


def _export(name: str, room: str, place: str) -> type:
    exports = _exports(room)
    if name not in exports:
        raise UserError(f"{place}.target: '{room}' has no '{name}'{did_you_mean(name, exports)}")
    return exports[name]


def _see_working_folder(package: str) -> None:
    """Packages and modules in the working folder can be imported, as with `python -m`."""
    here = Path.cwd()
    is_there = (here / package).is_dir() or (here / f"{package}.py").is_file()
    if is_there and package not in sys.modules and importlib.util.find_spec(package) is None:
        sys.path.append(str(here))
        importlib.invalidate_caches()


def _foreign(name: str, place: str, roots: set[str]) -> type:
    """A class of another package, which has to be defined in one that may be named, too."""
    module_name, _, name = name.rpartition(".")
    _see_working_folder(module_name.split(".")[0])
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{place}.target: '{module_name}.{name}': no module '{error.name}'"
        ) from None
    except Exception as error:  # whatever a module of somebody else's does when imported
        raise UserError(
            f"{place}.target: '{module_name}' can't be imported: {type(error).__name__}: {error}"
        ) from error
    exported = getattr(module, "__all__", None) or vars(module)
    classes = [
        key
        for key in exported
        if inspect.isclass(member := getattr(module, key, None))
        and member.__module__.split(".")[0] in roots
    ]
    if name not in classes:
        raise UserError(
            f"{place}.target: '{module_name}' has no class '{name}'{did_you_mean(name, classes)}"
        )
    return getattr(module, name)


def _refusal(target: str, trusted: bool) -> str:
    package = target.split(".")[0]
    if package == "taming":
        return f"'{target}' is nothing that may be named here; take a class of {', '.join(ROOMS)}"
    cure = f"--allow {package}, in Python taming.load(..., allow=['{package}'])"
    if trusted:
        return (
            f"'{target}' lies outside {', '.join((*ROOMS, *LIBRARIES))}; for classes of a package"
            f" of your own add `allow: [{package}]` to your YAML, or {cure}"
        )
    return (
        f"'{target}' is no class that a file may name; if the file is your own and needs"
        f" {package}, say so: {cure}"
    )
