"""Every parameter that a configuration can set, with every kind of wrong value: what its
declaration forbids is refused in one line, what it admits is built or refused in one line; nothing
ends in a traceback, and nothing runs for ever.
"""

import dataclasses
import inspect
import math
import shutil
import signal
import typing
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from taming import config
from taming.config.build import declared
from taming.config.experiment import Experiment
from taming.config.hints import expectation, fits
from taming.config.ranges import Length, Range
from taming.data.codes import About, Rows, write_rows
from taming.errors import UserError
from taming.inference.shard import shard
from tests.conftest import first_stage_plain, paint_pairs, write_vgg
from tests.data import fakes

CLASSES = config.file_classes()
LONGEST = 5  # seconds for one construction


def node(name: str, **params) -> dict:
    return {"target": f"taming.{name}", "params": params}


QUANTIZER = node("first_stage.VectorQuantizer", num_codes=8, dim=4)
LIKELIHOOD = node("first_stage.GaussianLikelihood")
VQVAE = node("first_stage.VQVAE", width=8, residual_width=8, quantizer=QUANTIZER)
GPT = node("second_stage.GPT", layers=1, heads=2, width=16)
UNCONDITIONAL = node("second_stage.Unconditional")
KINDS = [QUANTIZER, LIKELIHOOD, VQVAE, GPT, UNCONDITIONAL, node("data.DrawnLandscapes", size=16)]

# Parameters with which a class can be built; of the others, `example` finds some
SHAPE: dict = {"num_codes": 8, "grid": [4, 4], "parts": [{"vocabulary": 3, "grid": [2, 2]}]}
SECOND_STAGE = node(
    "second_stage.SecondStage",
    first_stage=VQVAE,
    conditioner=UNCONDITIONAL,
    prior={**GPT, "params": {**GPT["params"], "condition": "added"}},
    size=16,
)
MASKED = node("second_stage.MaskedPrior", layers=1, heads=2, width=16)
PARAMS: dict[str, dict] = {
    "Cascade": {"base": SECOND_STAGE, "level": MASKED, "window": 16},
    "CoordinateCrops": {"source": node("data.DrawnLandscapes", size=16), "size": 16},
    "DVAE": {"width": 4, "quantizer": {**QUANTIZER, "params": {"num_codes": 8, "dim": 32}}},
    "DrawnDepth": {"size": 16},
    "DrawnLandscapes": {"size": 16},
    "EncodedImage": {"first_stage": VQVAE},
    "GPT": {"layers": 1, "heads": 2, "width": 16, **SHAPE},
    "CompVisGPT": {"layers": 1, "heads": 2, "width": 16, "shared_vocabulary": 8, **SHAPE},
    "LlamaGenGPT": {"layers": 1, "heads": 2, "width": 16, **SHAPE},
    "RARGPT": {
        "layers": 1,
        "heads": 2,
        "width": 16,
        **SHAPE,
        "parts": [{"vocabulary": 3, "length": 1}],
    },
    "GatedPixelCNN": {"layers": 1, "width": 8, **SHAPE},
    "PixelSNAIL": {"blocks": 1, "layers": 1, "width": 8, **SHAPE},
    "MaskedPrior": {"layers": 1, "heads": 2, "width": 16, **SHAPE},
    "MaskVQGAN": {"labels": 3, "channels": 32, "multipliers": [1], "quantizer": QUANTIZER},
    "MaskGITVQGAN": {"channels": 32, "multipliers": [1], "quantizer": QUANTIZER},
    "MultiScaleQuantizer": {"num_codes": 8, "dim": 4, "scales": [1, 2]},
    "RemappedQuantizer": {"quantizer": QUANTIZER, "used": 4},
    "SecondStage": {"first_stage": VQVAE, "conditioner": UNCONDITIONAL, "prior": GPT, "size": 16},
    "Together": {
        "first": node("second_stage.ClassLabel", classes=3),
        "second": node("second_stage.Boxes", objects=2, vocabulary=16),
    },
    "VQGAN": {"channels": 32, "multipliers": [1], "quantizer": QUANTIZER},
    "VQGANLoss": {"perceptual": "none"},
    "VQVAE2": {"width": 8, "residual_width": 8, "quantizers": [QUANTIZER, QUANTIZER]},
}

SCALARS = [-1, 0, 1, 2, 3, 10**12, 10**30, -(10**30), 10**400, 0.5, -0.5, 1.0, 1.5, 1e300]
ODD = [math.nan, math.inf, -math.inf, True, False, None, "", "a word", "0", "96x128", "/dev/null"]
LISTS = [[], [0], [-1], [1], [1, 2], [math.nan, 1], [[]], [None], [{}], ["a"], [QUANTIZER]]
TREES = [{}, {"size": -1}, {"size": math.nan}, {"a": 1}, *KINDS]
VALUES = [*SCALARS, *ODD, *LISTS, *TREES, [3] * 2000]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    """A folder that every data set can read, with one for each set that has a layout of its own."""
    root = paint_pairs(tmp_path_factory.mktemp("data") / "pairs")
    for name in ("depth", "keypoints"):
        shutil.copytree(root / "segmentations", root / name)
    for name, make in fakes.SETS.items():
        make(root.parent / name)
    shard(str(root), root.parent / "Shards", samples=2)
    about = About("", "", [8], [[2, 2]], [], "", None, "", [3])
    (root.parent / "Codes").mkdir()
    about.write(root.parent / "Codes")
    rows = Rows([np.zeros((3, 1, 2, 2), np.int64)], [], ["a", "b", "c"])
    write_rows(root.parent / "Codes" / "00000.codes", about, rows)
    return str(root)


def example(hint: Any) -> Any:
    """A value that a declaration admits."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = example(arguments[0])
        for limit in arguments[1:]:
            if isinstance(limit, Range) and value not in limit:
                value = type(value)(limit.low)
            if isinstance(limit, Length):
                value = (value * limit.low)[: limit.low]
        return value
    if arguments and origin in (typing.Union, type(int | str)):
        return example(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    simple = {int: 4, float: 0.5, bool: True, str: "image"}
    if hint in simple:
        return simple[hint]
    for kind in KINDS:
        if inspect.isclass(hint) and fits(kind, hint, class_of):
            return kind
    return [example(entry) for entry in arguments[:1]]


def class_of(tree: dict) -> type:
    return CLASSES[tree["target"]]


def example_params(name: str, pictures: str) -> dict:
    made = CLASSES[name]
    params = dict(PARAMS.get(name.rpartition(".")[2], {}))
    parameters, hints = declared(made)
    for key, parameter in parameters.items():
        if key not in params and parameter.default is parameter.empty:
            params[key] = example(hints.get(key, Any))
    own = Path(pictures).parent / name.rpartition(".")[2]
    if "root" in params:
        params |= {"root": str(own) if own.is_dir() else pictures, "view": {"size": 16}}
    if name == "taming.first_stage.ProjectedDiscriminator":
        file = own.parent / "vgg.safetensors"
        params |= {"features": str(file if file.is_file() else write_vgg(file, 1)), "blocks": 1}
    if name == "taming.data.Shards":
        params |= {"files": f"{own}/*.tar", "view": {"size": 16}}
    if name == "taming.data.Codes":
        params["folder"] = str(own)
    for key in ("celebahq", "ffhq"):
        if key in params:
            params[key] = str(own.parent / {"celebahq": "CelebAHQ", "ffhq": "FFHQ"}[key])
    return params


class TooLong(BaseException):
    """Nobody catches it on the way."""


@contextmanager
def time_limit(what: str):
    def stop(*_):
        raise TooLong(f"{what} takes over {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def build(tree: dict) -> Any:
    """Without memory for weights."""
    data = issubclass(class_of(tree), Dataset)
    with nullcontext() if data else torch.device("meta"):
        return config.build(tree)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_built_from_its_example(name, pictures):
    """Else the walk below would see refusals of something else."""
    build({"target": name, "params": example_params(name, pictures)})


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameter_of_every_class(name, pictures):
    params, problems = example_params(name, pictures), []
    parameters, hints = declared(CLASSES[name])
    for key in parameters:
        for value in VALUES:
            case = f"{name}.{key}={value!r:.40}"
            try:
                with time_limit(case):
                    build({"target": name, "params": {**params, key: value}})
            except UserError as error:
                if "\n" in str(error) or len(str(error)) > 1000:
                    problems.append(f"{case}: not one line: {error}")
            except (Exception, TooLong) as error:
                problems.append(f"{case}: {type(error).__name__}: {error}")
            else:
                if not fits(value, hints.get(key, Any), class_of):
                    problems.append(f"{case}: silence, but {expectation(hints[key])} is declared")
    assert problems == []


@pytest.mark.parametrize("name", CLASSES)
def test_every_number_declares_its_range(name):
    """Hints in full, numbers with a Range, lists with what they hold."""
    parameters, hints = declared(CLASSES[name])
    undeclared = [key for key in parameters if key not in hints]
    assert undeclared + [key for key, hint in hints.items() if bare(hint)] == []


def bare(hint: Any, limits: tuple = ()) -> bool:
    """Whether a number, or a list of anything, is declared without limits."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return bare(arguments[0], arguments[1:])
    if hint in (int, float):
        return not any(isinstance(limit, Range) for limit in limits)
    if hint in (list, tuple, typing.Sequence, Any):
        return True
    if origin is dict:
        return False
    return any(bare(inner) for inner in arguments if inner is not Ellipsis)


def fields(schema: type = Experiment, place: str = "") -> dict[str, Any]:
    """Dotted name -> declaration, of all that is no target/params tree."""
    declarations = {}
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            declarations |= fields(hint, f"{place}{name}.")
        elif typing.get_origin(hint) is not typing.ClassVar:
            declarations[f"{place}{name}"] = hint
    return declarations


@pytest.mark.parametrize("dotted", fields())
def test_every_field_of_an_experiment(dotted):
    """A value is refused, or it is in the experiment as the declaration has it."""
    for value in [v for v in VALUES if v not in KINDS]:
        plain = first_stage_plain()
        if dotted not in ("model", "loss", "data.train", "data.validation"):
            try:
                experiment = config.from_plain(put(plain, dotted, value), "my.yaml")
            except UserError as error:
                assert dotted in str(error) and "\n" not in str(error)
                continue
            result = experiment
            for key in dotted.split("."):
                result = getattr(result, key)
            assert fits(result, fields()[dotted]), (dotted, value, result)


@pytest.mark.parametrize("place", ["model", "loss", "data.train", "data.validation"])
def test_every_tree_of_an_experiment(place):
    for value in VALUES:
        try:
            config.from_plain(put(first_stage_plain(), place, value), "my.yaml")
        except UserError as error:
            assert place in str(error) and "\n" not in str(error)
        else:
            assert not value or value in KINDS, (place, value)


def put(plain: dict, dotted: str, value: Any) -> dict:
    *path, last = dotted.split(".")
    inner = plain
    for key in path:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return plain


@pytest.mark.parametrize(
    "dotted, value, words",
    [
        ("trainer.gradient_clip_val", -1, "above 0, or null"),
        ("trainer.gradient_clip_val", 0, "above 0, or null"),
        ("trainer.ema", 1.5, "at least 0 and below 1, or null"),
        ("trainer.ema", math.nan, "below 1"),
        ("trainer.devices", 10**6, "from 1 to 1024"),
        ("trainer.threads", 10**6, "from 1 to 1024"),
        ("trainer.threads", 0, "from 1 to 1024"),
        ("trainer.precision", "16-mixed", "one of auto, 32-true, bf16-mixed"),
        ("trainer.accelerator", "gpus", "did you mean 'gpu'"),
        ("optimizer.weight_decay", -100, "at least 0"),
        ("optimizer.final", -1, "from 0 to 1"),
        ("optimizer.warmup", -30, "at least 0"),
        ("optimizer.learning_rate", math.nan, "above 0"),
        ("optimizer.learning_rate", math.inf, "above 0"),
        ("optimizer.learning_rate", 0, "above 0"),
        ("optimizer.betas", [0.9], "2 entries"),
        ("optimizer.betas", [0.9, 1.0], "below 1"),
        ("optimizer.betas", [], "2 entries"),
        ("data.workers", -1, "from 0 to 1024"),
        ("data.workers", 10**5, "from 0 to 1024"),
        ("data.views", 0, "from 1 to 1024"),
        ("data.batch_size", 0, "from 1 to 1048576"),
        ("noise", 1, "below 1"),
        ("condition_dropout", -0.1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("seed", 2**32, "from 0 to 4294967295"),
        ("evaluation.pictures", 1, "from 2 to 1048576"),
        ("allow", [1], "list"),
    ],
)
def test_what_people_write_for_off_and_more(dotted, value, words):
    with pytest.raises(UserError, match=words) as error:
        config.from_plain(put(first_stage_plain(), dotted, value), "my.yaml")
    assert str(error.value).startswith(f"my.yaml: {dotted}: ")


@pytest.mark.parametrize(
    "hint, value, words",
    [
        (int, None, "a whole number"),
        (Annotated[float, Range()], None, "a finite number"),
        (Annotated[Annotated[float, Range()], Range()], None, "a finite number"),
        (Annotated[float, Range(0, low_open=True)] | None, None, "a number above 0, or null"),
        (Annotated[int, Range(1, 2**31)], None, "a whole number of at least 1"),
        (Annotated[int, Range(1, 2**31)], 2**40, "a whole number from 1 to 2147483648"),
        (Annotated[float, Range(0, 1, high_open=True)], None, "a number of at least 0 and below 1"),
        (Annotated[int, Range(high=9)], None, "a whole number of at most 9"),
        (Literal["headers", "full"], None, "headers or full"),
        (Annotated[list[bool], Length(2, 2)], None, "a list of 2 entries, each true or false"),
    ],
)
def test_what_is_expected_is_said_in_english(hint, value, words):
    assert expectation(hint, value) == words
