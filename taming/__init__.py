"""VQ-GAN and its family, with a Transformer prior: tokenizers of images, priors over their codes,
and pictures drawn from both.

    model = taming.load("landscapes")  # a shipped model, a run folder, a checkpoint
    codes = model.first_stage.encode(image)
    images = model.sample({"segmentation": labels}, seed=0)
    figures = taming.evaluate("figures.json", checkpoint="landscapes", data="my/data")
"""

from importlib import import_module

__version__ = "0.1.0"
LAZY = {"load": "taming.formats.load", "evaluate": "taming.evaluation.evaluate"}
__all__ = sorted(LAZY)


def __getattr__(name: str):
    """Imported when first used, so that `import taming` and the command line's help stay quick."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'taming' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
