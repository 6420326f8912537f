"""Encoder and decoder as ONNX: images -> codes and codes -> images, out of Python.

Any number of images and any size that the stride divides; one input and one output for each level
of codes. What checks inputs here is left behind: images are float32 in [-1, 1], codes below K.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from taming.errors import UserError, first_line
from taming.files import make_writable, write_atomically
from taming.first_stage.interface import FirstStage

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
OPSET = 18


class CodesOf(nn.Module):
    """Images (B, C, H, W) -> the codes of each level."""

    def __init__(self, model: FirstStage):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model._quantize(image).codes


class ImagesOf(nn.Module):
    """The codes of each level -> images (B, C, H, W); of a mask tokenizer logits."""

    def __init__(self, model: FirstStage):
        super().__init__()
        self.model = model

    def forward(self, *codes: Tensor) -> Tensor:
        output = self.model._output(self.model._embed(codes).to(self.model.last_layer.dtype))
        return output if self.model.likelihood is None else self.model.likelihood.picture(output)


def write_onnx(model: nn.Module, folder: str | Path) -> Path:
    """Writes encoder.onnx and decoder.onnx into a folder; returns it.

    Raises:
        UserError: it is no tokenizer, onnx is not installed, or a layer has no counterpart there.
    """
    if not isinstance(model, FirstStage):
        raise UserError(
            f"a {type(model).__name__} has no encoder and decoder of codes; export its first stage"
        )
    if model.labels is not None:
        raise UserError(
            "a mask tokenizer reads labels, which its ONNX encoder does not; export"
            " a first stage of images"
        )
    try:
        # What torch writes ONNX with, and only `interop` installs
        import onnxscript as onnxscript  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("ONNX needs onnx and onnxscript; pip install 'taming[interop]'") from None
    folder, model = Path(folder), model.float().eval()
    make_writable(folder)
    rows, columns = 3 * model.multiple, 4 * model.multiple  # an example; any other size works, too
    image = torch.zeros(2, model.in_channels, rows, columns)
    grids = model.grids(rows, columns)
    codes = tuple(torch.zeros(2, *grid, dtype=torch.int64) for grid in grids)
    names = ["codes"] if len(codes) == 1 else [f"codes_{i}" for i in range(len(codes))]
    free = torch.export.Dim.AUTO
    picture, grid = dict.fromkeys((0, 2, 3), free), dict.fromkeys((0, 1, 2), free)
    _export(CodesOf(model), (image,), (picture,), ["image"], names, folder / ENCODER)
    shapes = (tuple(grid for _ in codes),)
    _export(ImagesOf(model), codes, shapes, names, ["image"], folder / DECODER)
    return folder


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: tuple,
    inputs: list[str],
    outputs: list[str],
    path: Path,
) -> None:
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # torch and onnxscript raise many kinds
        reason = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise UserError(
            f"'{path}' can't be written: {type(reason).__name__}: {first_line(reason)[:200]}"
        ) from error
    assert program is not None
    write_atomically(path, lambda file: program.save(str(file), external_data=False))
