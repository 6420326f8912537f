"""SecondStage: a first stage, a conditioner and a prior: what a second-stage checkpoint is."""

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.first_stage.interface import Codes, FirstStage
from taming.second_stage.interface import Conditioner, Prior
from taming.second_stage.sampling import sample


class SecondStage(nn.Module):
    """The first stage and the conditioner are frozen; the prior learns."""

    def __init__(self, first_stage: FirstStage, conditioner: Conditioner, prior: Prior):
        super().__init__()
        if prior.num_codes != first_stage.num_codes[0]:
            raise UserError(
                f"model.params.prior: num_codes is {prior.num_codes}, but the first stage has {first_stage.num_codes[0]} codes; "
                "make them equal, or take the first stage "
                "that the prior was trained on"
            )
        self.first_stage = first_stage.requires_grad_(False)
        self.conditioner = conditioner.requires_grad_(False)
        self.priors = nn.ModuleList([prior])

    @property
    def prior(self) -> Prior:
        """The only one, where there is one level."""
        return self.priors[0]

    def train(self, mode: bool = True) -> "SecondStage":
        super().train(mode)
        self.first_stage.eval()
        self.conditioner.eval()
        return self

    def decode(self, codes: Codes) -> Tensor:
        """(B, C, H, W) in [-1, 1]"""
        return self.first_stage.decode(codes).clamp(-1, 1)

    @torch.no_grad()
    def sample(
        self,
        batch: dict,
        size: tuple[int, int] | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        known: tuple[Tensor, Tensor] | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] for what the batch says (see the conditioner): {"segmentation": int64 (B, H, W)}, {"class": int64 (B,)},
        {"count": B}, ...

        size: (H, W), by default what the prior was trained on. known: an image (B, C, H, W) and a bool mask (B, H, W); codes whose whole patch is marked
        are kept. Picture i draws from (seed, first + i).
        """
        stride = self.first_stage.stride
        grid = self.first_stage.grids(*size)[0] if size else self.prior.grid
        condition = self.conditioner(batch)
        if known is not None:
            kept = nn.functional.max_pool2d((~known[1])[:, None].float(), stride)[:, 0] == 0
            known = (self.first_stage.encode(known[0])[0], kept)
        count = len(condition[0].tokens)
        codes = sample(
            self.prior,
            condition,
            grid,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance=guidance,
            known=known,
            generators=generators(seed, first, count),
        )
        return self.decode((codes,))


def generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """One per picture, so that picture i is the same whatever batch it is drawn in."""
    return [torch.Generator().manual_seed((seed * 1_000_003 + first + i) % 2**63) for i in range(count)]
