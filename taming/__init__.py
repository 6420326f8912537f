"""VQ-GAN and its family, with a Transformer prior: tokenizers of images, priors over their codes,
and pictures drawn from both.

    model = taming.load("landscapes")  # a shipped model, a run folder, a checkpoint
    codes = model.first_stage.encode(taming.read_image("photo.png"))
    images = model.sample(taming.read_mask("layout.png", model), seed=0)
    taming.show(images)  # in a notebook; taming.save(images, "sheet.png")
    sheet = taming.sample("landscapes", "drawn", masks="my/layouts", temperature=0.9)
    last = taming.train("intel_vqgan_64", "runs/mine", ["data.batch_size=4"])
    figures = taming.evaluate("figures.json", checkpoint=last, data="my/data")

`help(taming)` describes each; `taming.first_stage`, `taming.second_stage` and `taming.data` have
the parts.
"""

import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable)
__version__ = "0.1.0"
LAZY = {
    "compress": ("taming.inference.compress", "compress_file"),
    "decompress": ("taming.inference.compress", "decompress_file"),
    "encode": ("taming.inference.encode", "encode_folder"),
    "evaluate": ("taming.evaluation.evaluate", "evaluate"),
    "from_pretrained": ("taming.formats.hub", "from_pretrained"),
    "load": ("taming.formats.load", "load"),
    "push_to_hub": ("taming.formats.hub", "push_to_hub"),
    "save_pretrained": ("taming.formats.hub", "save_pretrained"),
    "read_image": ("taming.inference.notebook", "read_image"),
    "read_mask": ("taming.inference.notebook", "read_mask"),
    "reconstruct": ("taming.inference.reconstruct", "reconstruct_folder"),
    "sample": ("taming.inference.sample", "sample"),
    "save": ("taming.inference.notebook", "save"),
    "show": ("taming.inference.notebook", "show"),
    "Sampling": ("taming.config.sampling", "Sampling"),
    "UserError": ("taming.errors", "UserError"),
}
__all__ = [
    "Sampling",
    "UserError",
    "compress",
    "decompress",
    "encode",
    "evaluate",
    "from_pretrained",
    "load",
    "push_to_hub",
    "read_image",
    "read_mask",
    "reconstruct",
    "sample",
    "save",
    "save_pretrained",
    "show",
    "train",
]
if TYPE_CHECKING:
    from taming.config.sampling import Sampling
    from taming.errors import UserError
    from taming.evaluation.evaluate import evaluate
    from taming.formats.hub import from_pretrained, push_to_hub, save_pretrained
    from taming.formats.load import load
    from taming.inference.compress import compress_file as compress
    from taming.inference.compress import decompress_file as decompress
    from taming.inference.encode import encode_folder as encode
    from taming.inference.notebook import read_image, read_mask, save, show
    from taming.inference.reconstruct import reconstruct_folder as reconstruct
    from taming.inference.sample import sample


def _door(function: Function) -> Function:
    """The same function, which says in one line what is wrong with an argument."""

    @functools.wraps(function)
    def door(*arguments: Any, **keywords: Any) -> Any:
        from taming.config.doors import checked

        return checked(function)(*arguments, **keywords)

    return cast("Function", door)


def __getattr__(name: str) -> Any:
    """Imported when first used, so that `import taming` and the command line's help stay quick."""
    if name in LAZY:
        module, attribute = LAZY[name]
        value = getattr(import_module(module), attribute)
        globals()[name] = value if isinstance(value, type) else _door(value)
        return globals()[name]
    raise AttributeError(f"module 'taming' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


@_door
def train(
    config: str | Path | dict | Iterable[str | Path | dict],
    folder: str | Path,
    overrides: Iterable[str] = (),
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
    fitting: bool = False,
    allow: Iterable[str] = (),
) -> Path:
    """Trains a first stage, a second stage or a segmenter.

        taming.train("intel_vqgan_64", "runs/mine", ["trainer.max_steps=1000"])
        taming.train([], "runs/mine", ["trainer.max_steps=2000"], resume=True)
        taming.train([], "runs/own", ["variables.root=my/data"], start_from="landscapes")

    Args:
        config: a YAML file, the name of a shipped one, a plain dictionary, or several of these,
            merged from left to right.
        folder: of the run: config.yaml, metrics.csv, checkpoints/ and pictures/ go there.
        overrides: `key=value`, as on the command line.
        resume: resume the run in `folder` where it stopped; `config` adds to its own.
        start_from: a checkpoint whose weights are taken before batch 0.
        fitting: with `start_from`: take what has the right name and shape, and list the rest.
        allow: packages of your own whose classes the configuration may name.

    Returns:
        The last checkpoint's path, for `taming.load`.

    Raises:
        UserError: an unknown key, a value out of range, a folder that is in use or has a run.
    """
    from taming.config import load as load_config
    from taming.training import run

    if start_from is not None and not resume and not config:
        from taming.training.fine_tune import fine_tune, request_of

        return fine_tune(request_of(start_from, folder, overrides))

    resumed = Path(folder) / "config.yaml" if resume else None
    experiment = load_config(config, overrides, allow, resumed)
    start = None if start_from is None else str(start_from)
    return run.train(experiment, folder, resume, start, fitting)
