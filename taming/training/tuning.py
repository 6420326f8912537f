"""What learns of a model that is trained already: all of it, some parts, or low-rank updates of its
linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from taming.config.experiment import Tuning
from taming.errors import UserError, did_you_mean
from taming.first_stage.interface import Autoencoder, FirstStage, Quantizer
from taming.second_stage.model import SecondStage

ORIGINAL = ".parametrizations.weight.original"
DOWN, UP = ".parametrizations.weight.0.down", ".parametrizations.weight.0.up"


class LowRank(nn.Module):
    """weight -> weight + up @ down, at first the weight itself.

    Args:
        weight: (rows, columns), which stays as it is.
        rank: of the update.
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.randn(rank, columns) / math.sqrt(columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def tune(model: nn.Module, tuning: Tuning) -> None:
    """Freezes what does not learn, and gives linear layers their updates.

    Raises:
        UserError: parts that the model has not, LoRA of a model without linear layers.
    """
    if tuning.lora is None and not tuning.parts:
        return
    learning = model.priors if isinstance(model, SecondStage) else model
    learning.requires_grad_(False)
    if tuning.lora is not None:
        _add_updates(learning, tuning.lora)
    names = [name for name, _ in learning.named_parameters()]
    for part in tuning.parts:
        members = [name for name in names if name == part or name.startswith(f"{part}.")]
        if not members:
            parts = sorted({name.split(".")[0] for name in names})
            raise UserError(f"tuning.parts: the model has no '{part}'{did_you_mean(part, parts)}")
        for name in members:
            learning.get_parameter(name).requires_grad_(True)


def _add_updates(module: nn.Module, rank: int) -> None:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    wide = [layer for layer in layers if min(layer.weight.shape) > 2 * rank]
    if not wide:
        raise UserError(
            f"tuning.lora: {rank}, but this model has no linear layer of more than {2 * rank}"
            " rows and columns; take a smaller rank, or leave it out"
        )
    for layer in wide:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def merged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of a model without updates; other parametrizations, as a
    discriminator's spectral norms, stay what they are.
    """
    plain = {}
    for name, tensor in state.items():
        if name.endswith(ORIGINAL) and name.removesuffix(ORIGINAL) + UP in state:
            layer = name.removesuffix(ORIGINAL)
            plain[f"{layer}.weight"] = tensor + state[layer + UP] @ state[layer + DOWN]
        elif not name.endswith((DOWN, UP)):
            plain[name] = tensor
    return plain


def has_updates(state: dict[str, Tensor]) -> bool:
    return any(name.endswith(UP) for name in state)


def frozen_quantizers(model: Autoencoder) -> list[Quantizer]:
    """Whose codebooks may not move, by moving averages either: the encoder before them is frozen,
    and codes keep their meaning. (A codebook that only averages move has no gradient at any time.)
    """
    if not isinstance(model, FirstStage):
        return []
    named = {
        name: module for name, module in model.named_modules() if isinstance(module, Quantizer)
    }
    inside = tuple(f"{name}." for name in named)
    encoder = [
        parameter
        for name, parameter in model.named_parameters()
        if name.split(".")[0] not in model.decoding and not name.startswith(inside)
    ]
    if not encoder or any(parameter.requires_grad for parameter in encoder):
        return []
    return [*named.values()]
