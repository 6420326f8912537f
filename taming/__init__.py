"""VQ-GAN and its family, with a Transformer prior: tokenizers of images, priors over their codes, and pictures drawn from both.

model = taming.load("landscapes")       # a shipped model, a run folder, a checkpoint: a FirstStage or a SecondStage, in eval mode
codes = model.first_stage.encode(image)
images = model.sample({"segmentation": labels}, seed=0)
figures = taming.evaluate("figures.json", checkpoint="landscapes", data="my/data")
"""

__all__ = ["evaluate", "load"]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Fetched when first used, so that `import taming` and the command line's help stay quick."""
    if name == "load":
        from taming.checkpoint import load

        return load
    if name == "evaluate":
        from taming.measuring import evaluate

        return evaluate
    raise AttributeError(f"module 'taming' has no attribute '{name}'")
