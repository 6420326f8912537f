"""How convolutional priors read a condition: as one vector at every code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage.interface import Condition, PartShape


class ConditionMap(nn.Module):
    """Rasters are laid over the codes, by nearest neighbour and a 3x3 convolution, and through
    `blocks` residual blocks; all other tokens are added everywhere. Numbers that come with a
    part's tokens go through a linear layer of its own.
    """

    def __init__(self, parts: tuple[PartShape, ...], width: int, blocks: int = 0):
        super().__init__()
        self.width, self.parts = width, parts
        # A raster has one table for all of its places, other tokens one for each
        counts = [(part.vocabulary + 1) * (1 if part.grid else part.length) for part in parts]
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in counts)
        features = {str(i): part.features for i, part in enumerate(parts) if part.features}
        self.numbers = nn.ModuleDict(
            {place: nn.Linear(count, width, bias=False) for place, count in features.items()}
        )
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(_residual(width) for _ in range(blocks))

    def forward(self, condition: Condition, grid: tuple[int, int]) -> Tensor:
        """(B, width, h, w)"""
        self._check(condition)
        tokens = condition[0].tokens
        over = everywhere = torch.zeros(
            len(tokens), self.width, *grid, device=tokens.device, dtype=self.smooth.weight.dtype
        )
        for i, (part, table) in enumerate(zip(condition, self.tables)):
            places = torch.arange(part.tokens.shape[1], device=tokens.device)
            offsets = 0 if part.grid else places * (part.vocabulary + 1)
            vectors = table(part.tokens + offsets)
            if part.values is not None:
                vectors = vectors + self.numbers[str(i)](part.values.to(vectors))
            if part.grid:
                raster = vectors.unflatten(1, part.grid).permute(0, 3, 1, 2)
                if raster.shape[2:] != grid:
                    raster = F.interpolate(raster, grid, mode="nearest")
                over = over + self.smooth(raster)
            else:
                everywhere = everywhere + vectors.sum(dim=1)[..., None, None]
        for block in self.blocks:
            over = over + block(over)
        return over + everywhere

    def _check(self, condition: Condition) -> None:
        """Rasters may have any size: they are laid over the codes."""
        actual, trained = (
            [(part.vocabulary, "grid" if part.grid else part.size, part.features) for part in parts]
            for parts in ([part.shape for part in condition], self.parts)
        )
        if actual != trained:
            raise UserError(
                f"the condition has (vocabulary, length or grid, features) {actual}, but this prior"
                f" knows {trained}; was it trained with another conditioner?"
            )


BESIDE_CODES = 0.03  # root mean square of what is first added, like that of embedded codes


class AddedCondition(nn.Module):
    """A condition that is added at each position of a Transformer, before the first block and after
    one and two thirds of them (Li et al. 2024, arXiv 2410.02705).

    The map is normalized at each position: its convolutions grow in training, to 2,400 within 300
    batches where nothing held them, and then no code was seen beside it (0.02).

    Args:
        parts: the shape of the condition.
        width: of the Transformer.
        layers: number of its blocks.
        blocks: residual blocks of convolutions that look at the rasters first.
    """

    def __init__(self, parts: tuple[PartShape, ...], width: int, layers: int, blocks: int = 2):
        super().__init__()
        self.places = sorted({0, layers // 3, 2 * layers // 3})
        self.map = ConditionMap(parts, width, blocks)
        self.gain = nn.Parameter(torch.full((width, 1, 1), BESIDE_CODES))
        self.again = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in self.places[1:])

    def forward(self, condition: Condition, grid: tuple[int, int]) -> list[Tensor]:
        """(B, width, h, w) for each of `places`."""
        map = self.map(condition, grid).to(self.gain)  # also under autocast
        map = map * torch.rsqrt(map.square().mean(dim=1, keepdim=True) + 1e-6)
        return [self.gain * map, *(layer(map) for layer in self.again)]

    def start_from_zero(self) -> None:
        """At first only what is added before the first block counts."""
        for layer in self.again:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


def _residual(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ELU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ELU(),
        nn.Conv2d(width, width, 3, padding=1),
    )
