"""Going on from a model that is trained, on somebody's own pictures: its first stage, its tokenizer
of masks, its prior, each or all, one after the other.
"""

import copy
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taming.config import from_plain
from taming.config.experiment import Experiment
from taming.config.merge import merge, overriding
from taming.data.card import Card
from taming.data.legend import Legend, plain_name, read_legend
from taming.data.segmentation import IMAGES, MASKS
from taming.errors import UserError, did_you_mean
from taming.files import make_writable
from taming.formats.content import Content
from taming.formats.load import read_checkpoint
from taming.formats.ours import save_safetensors
from taming.formats.parts import base_content, first_stage_content, tokenizer_node
from taming.formats.sharded import last_checkpoint
from taming.training.callbacks import Interrupted
from taming.training.run import train

STAGES = ("first", "masks", "prior")
FEW = 300  # pictures; a prior of full size would learn them by heart
RANK = 8  # of the updates of a prior that sees few pictures
BATCH = 8
PREFIXES = {"first": "first_stage", "masks": "conditioner.first_stage"}
RATES = {"first": 2e-4, "masks": 5e-4, "prior": 2e-4, "lora": 1e-3}
TABLES = ("cond_emb.weight", "map.tables.0.weight")  # of a prior that reads labels itself


@dataclass
class Request:
    """What is to be fine-tuned, and on what.

    Args:
        start: a checkpoint, or the name of a shipped model.
        folder: of the runs: folder/first, folder/masks, folder/prior; the result is
            folder/model.safetensors.
        root: pictures as the model's kind wants them: images/, segmentations/ and classes.txt, or
            a folder for each class, or pictures.
        stages: of first, masks and prior; default: prior, and masks where labels are new.
        decoder_only: of the first stage the decoder alone learns, so that codes keep their meaning.
        same: names of the pictures' classes that mean a label of the model's: {road: ground}.
        overrides: key=value of every stage's configuration.
    """

    start: str | Path
    folder: Path
    root: str
    stages: Sequence[str] = ()
    decoder_only: bool = True
    same: dict[str, str] = field(default_factory=dict)
    overrides: Sequence[str] = ()


def request_of(
    start: str | Path, folder: str | Path, overrides: Iterable[str], decoder_only: bool = False
) -> Request:
    """From `key=value` words: variables.root=DIR, variables.same={road: ground}, stages=prior, and
    keys of a configuration.

    Raises:
        UserError: no root, an unknown stage.
    """
    tree = overriding(overrides)
    variables = tree.pop("variables", None) or {}
    stages = tree.pop("stages", None)
    root = variables.pop("root", None)
    if not isinstance(root, str):
        raise UserError(
            f"nothing to train on: give a configuration with -b, or, to go on from {start},"
            " variables.root=DIR, a folder of your pictures"
        )
    words = stages.replace("+", ",").split(",") if isinstance(stages, str) else [*(stages or ())]
    words = [*STAGES] if words == ["all"] else [word.strip() for word in words]
    for word in words:
        if word not in STAGES:
            raise UserError(f"stages={word} is none{did_you_mean(word, [*STAGES, 'all'])}")
    same = variables.pop("same", None) or {}
    if variables or not isinstance(same, dict):
        name = next(iter(variables), "same")
        raise UserError(f"variables.{name}: fine-tuning knows variables.root and variables.same")
    rest = [word for word in overrides if not word.startswith(("variables.", "stages="))]
    words = words or (["first"] if decoder_only else [])
    return Request(start, Path(folder), root, words, decoder_only or not words, same, rest)


def fine_tune(request: Request) -> Path:
    """Trains stage after stage, each from the best of the one before; what was interrupted before
    is resumed. Returns the path of the model.
    """
    if (request.folder / "model.safetensors").exists():
        raise UserError(f"'{request.folder}' holds a model already; choose another name with -n")
    outer = read_checkpoint(request.start)
    content, whole = base_content(outer), _as_second(outer)
    if not Path(request.root).is_dir():
        raise UserError(f"variables.root={request.root}: there is no such folder")
    # 1. labels, old and new
    names, added = _labels(content, request)
    stages = _stages(request, whole, content, added)
    if added:
        _refuse_cascade(outer, content, added)
        content = with_labels(content, [*names, *added])
        names = [*names, *added]
        print(f"new labels: {', '.join(added)}", file=sys.stderr)
    # 2. stage by stage
    make_writable(request.folder)
    for stage in [stage for stage in STAGES if stage in stages]:
        experiment, part = _experiment(request, content, stage, names, bool(added))
        _train(request, experiment, part, stage)
        content = _with_stage(content, stage, _best(request.folder / stage))
    # 3. all in one file
    path = request.folder / "model.safetensors"
    if len(outer.weights) > len(content.weights):  # a cascade, with the tuned base in it
        weights = {**outer.weights, **content.weights}
        content = replace(outer, weights=weights, card=content.card, figures=content.figures)
    save_safetensors(path, content)
    return path


def _train(request: Request, experiment: Experiment, part: Content, stage: str) -> None:
    """One stage, from where it is: while it is trained, what it started from lies beside it."""
    folder, start = request.folder / stage, request.folder / f"before_{stage}.safetensors"
    begun = last_checkpoint(folder)
    if begun and (not start.exists() or _is_done(begun, experiment)):
        start.unlink(missing_ok=True)
        return
    try:
        if begun:
            train(experiment, folder, resume=True)
        else:
            save_safetensors(start, part)
            train(experiment, folder, start_from=start)
    except Interrupted as stop:
        stop.args = (f"{str(stop).split('. Resume')[0]}. The same command resumes",)
        raise
    start.unlink()


def _is_done(checkpoint: Path, experiment: Experiment) -> bool:
    return read_checkpoint(checkpoint).batches >= experiment.trainer.max_steps


def _refuse_cascade(outer: Content, content: Content, added: list[str]) -> None:
    if outer.config["model"] != content.config["model"]:
        raise UserError(
            f"'{outer.path}' is a cascade, which can't learn new labels ({', '.join(added)}); say"
            " which of its own they are: variables.same={new: old}"
        )


def _as_second(content: Content) -> bool:
    if content.stage not in ("first", "second"):
        raise UserError(f"'{content.path}' is a {content.stage}; a first or second stage is tuned")
    return content.stage == "second"


def _stages(request: Request, whole: bool, content: Content, added: list[str]) -> list[str]:
    if not whole:
        if set(request.stages) - {"first"}:
            raise UserError(f"'{content.path}' is a first stage; it has stages=first only")
        return ["first"]
    masks = tokenizer_node(content, PREFIXES["masks"]) is not None
    stages = [*(request.stages or ["prior"])]
    if added and masks and "masks" not in stages:
        stages.append("masks")
    if added and "prior" not in stages:
        stages.append("prior")
    if "masks" in stages and not masks:
        if "masks" in request.stages and request.stages != STAGES and len(request.stages) < 3:
            raise UserError(f"stages=masks: '{content.path}' has no tokenizer of masks")
        stages.remove("masks")
    if "masks" in stages and "prior" not in stages:
        print("masks: their codes change, so the prior has to be tuned too", file=sys.stderr)
        stages.append("prior")
    return stages


# Labels


def _labels(content: Content, request: Request) -> tuple[list[str], list[str]]:
    """The model's labels, and those of the pictures that it does not have."""
    key = _key(content)
    if key != "segmentation":
        return [], []
    _refuse_folder(request)
    count = _label_count(content)
    names = [*(content.card.legend(count) or Legend.of(count)).names]
    classes = read_legend(Path(request.root) / "classes.txt").renamed(request.same)
    places = {plain_name(name) for name in names}
    return names, [name for name in classes.names if plain_name(name) not in places]


def _refuse_folder(request: Request) -> None:
    """Where pictures with masks are needed, and the folder has none."""
    root = Path(request.root)
    if all((root / name).exists() for name in (IMAGES, MASKS, "classes.txt")):
        return
    raise UserError(
        f"variables.root={root}: '{request.start}' reads masks, so there should be {IMAGES}/,"
        f" {MASKS}/ and classes.txt; pictures in {IMAGES}/ are enough to begin with: taming segment"
        f" {shlex.quote(f'{root / IMAGES}')} -o {shlex.quote(f'{root / MASKS}')} --for"
        f" {request.start} makes the rest"
    )


def _key(content: Content) -> str | None:
    """The entry that the condition reads: segmentation, class, or nothing."""
    if content.stage == "first":
        return "segmentation" if "labels" in _params(content.config["model"]) else None
    node = _params(content.config["model"]).get("conditioner") or {}
    name = str(node.get("target")).rpartition(".")[2]
    if name == "EncodedImage":
        tokenizer = tokenizer_node(content, PREFIXES["masks"]) or {}
        return "segmentation" if "labels" in _params(tokenizer) else "image"
    return {"LabelMap": "segmentation", "ClassLabel": "class", "Unconditional": None}.get(
        name, name
    )


def _params(node: dict) -> dict:
    return node.get("params") or {}


def _label_count(content: Content) -> int:
    if content.stage == "first":
        return _params(content.config["model"])["labels"]
    tokenizer = tokenizer_node(content, PREFIXES["masks"])
    if tokenizer is not None:
        return _params(tokenizer)["labels"]
    return _params(_params(content.config["model"])["conditioner"])["count"]


def with_labels(content: Content, names: list[str]) -> Content:
    """The model with more labels at the end of its list: new ones begin as the mean of the others.

    Raises:
        UserError: its condition is of a kind that can't be widened.
    """
    before, after = _label_count(content), len(names)
    config, weights = copy.deepcopy(content.config), dict(content.weights)
    prefix = f"{PREFIXES['masks']}."
    if f"{prefix}encoder.conv_in.weight" in weights:
        config["model"]["params"]["conditioner"]["params"]["first_stage"]["params"]["labels"] = (
            after
        )
        name = f"{prefix}encoder.conv_in.weight"
        weights[name] = _widened(weights[name], 1, before, after)
        for name in (f"{prefix}decoder.conv_out.weight", f"{prefix}decoder.conv_out.bias"):
            weights[name] = _widened(weights[name], 0, before, after)
    else:
        tables = _label_tables(content)
        if not tables:
            raise UserError(
                f"'{content.path}' can't learn new labels ({', '.join(names[before:])}); say which"
                " of its own they are: variables.same={'new': 'old'}"
            )
        config["model"]["params"]["conditioner"]["params"]["count"] = after
        for name in tables:  # the null condition is the last row
            rows = _widened(weights[name][:before], 0, before, after)
            weights[name] = torch.cat([rows, weights[name][before:]])
    colours = Legend.of(names).colours[before:]
    old = content.card.legend(before) or Legend.of(before)
    card = replace(content.card, labels=tuple(names), colours=(*old.colours, *colours))
    return replace(content, config=config, weights=weights, card=card)


def _label_tables(content: Content) -> list[str]:
    """Of each prior the table with a row for each label, where no tokenizer reads them."""
    rows = _label_count(content) + 1
    names = [n for n in content.weights if n.startswith("priors.") and n.endswith(TABLES)]
    return [name for name in names if len(content.weights[name]) == rows]


def _widened(weight: Tensor, dim: int, before: int, after: int) -> Tensor:
    weight = weight.float()
    mean = weight.mean(dim=dim, keepdim=True)
    return torch.cat([weight, *[mean] * (after - before)], dim=dim)


# Configurations


def _experiment(
    request: Request, content: Content, stage: str, names: list[str], wider: bool
) -> tuple[Experiment, Content]:
    """The configuration of a stage, and what it starts from.

    Args:
        wider: the label list has new entries, which learn beside low-rank updates too.
    """
    part = content
    if content.stage == "second" and stage != "prior":
        part = first_stage_content(content, PREFIXES[stage])
    size = content.card.size or _size(content)
    data, count = _data(request, content, size, names)
    plain: dict[str, Any] = {
        "model": part.config["model"],
        "data": {"batch_size": BATCH, **data},
        "optimizer": {"learning_rate": RATES[stage], "warmup": 20, "weight_decay": 0.01},
        "trainer": _trainer(count),
        "tuning": {"patience": 3},
        "card": {"sampling": content.card.sampling},
    }
    if stage == "prior":
        plain["noise"] = content.config.get("noise", 0.0)
        plain["condition_dropout"] = content.config.get("condition_dropout", 0.0)
        plain["data"]["views"] = 4 if count <= 2000 else 1
        if count <= FEW and _is_wide(content):
            plain["tuning"]["lora"] = RANK
            plain["optimizer"] |= {"learning_rate": RATES["lora"], "weight_decay": 0.0}
    elif stage == "masks":
        plain["loss"] = {"target": "taming.first_stage.MaskLoss"}
    else:
        adversary = {"perceptual": "stlpips", "adversarial": 0.0}
        plain["loss"] = {"target": "taming.first_stage.VQGANLoss", "params": adversary}
        if request.decoder_only or content.stage == "second":
            plain["trainer"]["freeze_codes"] = True
    plain = merge(plain, overriding(request.overrides))
    if stage == "prior" and wider and plain["tuning"].get("lora"):
        tables = [n.removeprefix("priors.").removesuffix(".weight") for n in _label_tables(content)]
        plain["tuning"].setdefault("parts", tables)
    return from_plain(plain, f"fine-tuning of '{request.start}' ({stage})", trusted=False), part


def _is_wide(content: Content) -> bool:
    """Whether the prior has matrices much larger than an update of them."""
    shapes = [t.shape for n, t in content.weights.items() if n.startswith("priors.")]
    return any(len(shape) == 2 and min(shape) > 4 * RANK for shape in shapes)


def _trainer(count: int) -> dict[str, Any]:
    """About thirty times through few pictures, and some once through many."""
    steps = min(4000, max(200, 30 * count // BATCH))
    every = max(20, steps // 12)
    return {
        "max_steps": steps,
        "validate_every": every,
        "checkpoint_every": every,
        "pictures_every": steps,
        "ema": 0.99,
    }


def _size(content: Content) -> tuple[int, int]:
    size = _params(content.config["model"]).get("size")
    if isinstance(size, int):
        return size, size
    if isinstance(size, list) and len(size) == 2:
        return size[0], size[1]
    raise UserError(f"'{content.path}' does not say the size of its pictures; add variables.size")


def _data(
    request: Request, content: Content, size: tuple[int, int], names: list[str]
) -> tuple[dict[str, Any], int]:
    """The two data sets, and how many pictures there are."""
    from taming.config.build import build

    root = Path(request.root)
    params: dict[str, Any] = {"root": str(root)}
    target = "taming.data.ImageFolder"
    if _key(content) == "segmentation":
        target = "taming.data.SegmentedImages"
        params |= {"labels": names, "same": request.same}
    elif _key(content) == "class":
        target = "taming.data.ClassFolders"
    nodes = {}
    lists = all((root / f"{name}.txt").is_file() for name in ("train", "validation"))
    for name in ("train", "validation"):
        part = {"list": f"{name}.txt"} if lists else {"split": [name, 0.1]}
        view = {"size": list(size), "upscale": True, "flip": name == "train"}
        nodes[name] = {"target": target, "params": {**params, **part, "view": view}}
    return nodes, len(build(nodes["train"], place="data.train"))


# Results


def _best(folder: Path) -> Content:
    best = folder / "checkpoints" / "best.ckpt"
    return read_checkpoint(best if best.is_file() else folder)


def _with_stage(content: Content, stage: str, tuned: Content) -> Content:
    """The whole model with what a stage has learned."""
    card = _card(content.card, tuned.card)
    if content.stage == "first":
        return replace(tuned, card=card)
    if stage == "prior":
        config = {**content.config, "data": tuned.config["data"], "seed": tuned.config["seed"]}
        return replace(tuned, config={**config, "model": content.config["model"]}, card=card)
    prefix = f"{PREFIXES[stage]}."
    weights = {**content.weights, **{prefix + n: t for n, t in tuned.weights.items()}}
    return replace(content, weights=weights, card=card)


def _card(before: Card, after: Card) -> Card:
    """Labels stay; the data are told one after the other."""
    data = "; then ".join(text for text in (before.data, after.data) if text)
    return replace(before, data=data[:4000])
