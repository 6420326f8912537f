"""Content -> a folder in somebody else's format, by the format's name on the command line."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from taming.formats import diffusers
from taming.formats.compvis.checkpoint import save_published
from taming.formats.content import Content
from taming.formats.load import model_of
from taming.formats.onnx import write_onnx
from taming.second_stage import SecondStage


def write_hub(folder: str | Path, content: Content) -> Path:
    """config.json, model.safetensors and README.md."""
    from taming.formats.hub import HubModel

    HubModel(content).save_pretrained(str(folder))
    return Path(folder)


def write_networks(folder: str | Path, content: Content) -> Path:
    """Encoder and decoder as ONNX; of a second stage those of its first."""
    model: nn.Module = model_of(content)
    return write_onnx(model.first_stage if isinstance(model, SecondStage) else model, folder)


WRITERS: dict[str, Callable[[str | Path, Content], Path]] = {
    "compvis": save_published,
    "diffusers": diffusers.write,
    "hub": write_hub,
    "onnx": write_networks,
}
