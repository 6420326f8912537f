"""SecondStage: a first stage, a conditioner and a prior for each level of codes: what a second-
stage checkpoint is.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.first_stage.interface import Codes, FirstStage, pad_to_multiple
from taming.second_stage.conditioners import CoarserCodes
from taming.second_stage.interface import Condition, Conditioner, Prior, Window
from taming.second_stage.sampling import Sampling, sample
from taming.second_stage.window import decode_tiled


class SecondStage(nn.Module):
    """The first stage and the conditioner are frozen; the priors learn: p(codes | condition) =
    product over levels of p(level | coarser levels, condition).

    prior: where there is one level. priors: one per level, coarse to fine; each hears the
    conditioner's parts, then one raster for every coarser level.
    """

    def __init__(
        self,
        first_stage: FirstStage,
        conditioner: Conditioner,
        prior: Prior | None = None,
        priors: list | None = None,
    ):
        super().__init__()
        if not isinstance(first_stage, FirstStage):
            raise UserError(
                f"model.params.first_stage: a {type(first_stage).__name__} has no codes, so there"
                " is nothing for a prior to learn; take a VQVAE"
            )
        if (prior is None) == (priors is None):
            raise UserError(
                "model.params: give either prior, for one level of codes, or priors, one for each"
                " level"
            )
        priors = [prior] if priors is None else priors
        if len(priors) != len(first_stage.num_codes):
            raise UserError(
                f"model.params: {len(priors)} prior{'s are' if len(priors) > 1 else ' is'} given,"
                f" but the first stage has {len(first_stage.num_codes)} levels; give"
                " model.params.priors, one for each, coarse to fine"
            )
        for i, (made, known) in enumerate(zip(priors, first_stage.num_codes)):
            if made.num_codes != known:
                raise UserError(
                    f"model.params.{'prior' if len(priors) == 1 else f'priors[{i}]'}: num_codes is"
                    f" {made.num_codes}, but the first stage has {known} codes; make them equal, or"
                    " take the first stage that the prior was trained on"
                )
        self.first_stage = first_stage.requires_grad_(False)
        self.conditioner = conditioner.requires_grad_(False)
        self.priors = nn.ModuleList(priors)
        self.coarser = CoarserCodes(first_stage.num_codes)
        # How often the prior was trained without its condition; None where nobody knows
        self.condition_dropout: float | None = None

    @property
    def prior(self) -> Prior:
        """The only one, where there is one level; else the coarsest level's."""
        return self.priors[0]

    def train(self, mode: bool = True) -> "SecondStage":
        super().train(mode)
        self.first_stage.eval()
        self.conditioner.eval()
        return self

    def decode(self, codes: Codes) -> Tensor:
        """(B, C, H, W) in [-1, 1]; large grids in tiles."""
        return decode_tiled(self.first_stage, codes).clamp(-1, 1)

    @property
    def trained_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        finest = self.priors[-1].grid
        return finest[0] * self.first_stage.stride, finest[1] * self.first_stage.stride

    @property
    def multiple(self) -> int:
        """Sides of a picture that code grid and condition fit are multiples of this many pixels."""
        return math.lcm(
            self.first_stage.multiple,
            getattr(getattr(self.conditioner, "first_stage", None), "multiple", 1),
        )

    def level_condition(self, condition: Condition, coarser: Codes) -> Condition:
        """What the prior of the next level hears, when these levels are known."""
        return condition + self.coarser({"codes": coarser})

    def log_prob(self, codes: Codes, condition: Condition) -> Tensor:
        """log p(codes | condition) in nats, all levels together, (B,)."""
        levels = zip(self.priors, codes, strict=True)
        return torch.stack(
            [
                prior.log_prob(grid, self.level_condition(condition, codes[:level]))
                for level, (prior, grid) in enumerate(levels)
            ]
        ).sum(dim=0)

    def crop(self, condition: Condition, window: Window, grid: tuple[int, int]) -> Condition:
        """The conditioner's own rule for its parts; coarser levels are rasters."""
        own = tuple(part for part in condition if not part.always)
        return self.conditioner.crop(own, window, grid) + tuple(
            part.crop(window, grid) for part in condition if part.always
        )

    @torch.no_grad()
    def sample(
        self,
        batch: dict,
        size: tuple[int, int] | None = None,
        *,
        sampling: Sampling | None = None,
        known: tuple[Tensor, Tensor] | None = None,
        first: int | list[int] = 0,
        on_row: Callable[[Codes, int], None] | None = None,
        **changes: Any,
    ) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] for what the batch says (see the conditioner):
        {"segmentation": int64 (B, H, W)}, {"class": int64 (B,)}, {"count": B}, ...

        Where the code grid needs more than the size, rasters of the condition and known pictures
        are continued by their last row and column, and what was drawn there is cut off.

        Args:
            size: (H, W), by default that of the condition's picture, else what the prior was
                trained on; any size will do.
            sampling: seed, temperature, filters, guidance, hop; see Sampling.
            known: an image (B, C, H, W) and a bool mask (B, H, W) of what stays of it; a code stays
                where all of its patch is marked.
            first: picture i draws from (seed, first + i); a list has the number of each.
            on_row: called with the codes so far (of the finest level, behind those of the coarser
                ones) and the number of its rows.
            changes: fields of Sampling, changed: seed=1, temperature=0.9, ...
        """
        if size is not None:
            changes["size"] = size
        sampling = Sampling.of(sampling, **changes).seeded()
        if sampling.accept != 1:
            raise UserError(
                f"accept {sampling.accept} needs a judge of the candidates; draw with"
                " taming.second_stage.rejection.rejection_sample"
            )
        if sampling.guidance != 1.0:
            self.check_guidance()
        key = getattr(self.conditioner, "key", None)
        shown = batch.get(key)
        height, width = sampling.size or (
            tuple(shown.shape[-2:]) if _is_picture(shown, key) else self.trained_size
        )
        # Conditions on small pictures may be given small
        smaller = getattr(self.conditioner, "size", None)
        if _is_picture(shown, key) and (tuple(shown.shape[-2:]) == (height, width) or not smaller):
            batch = {**batch, key: self._fitted(shown, (height, width), key)}
        condition = self.conditioner(batch)
        if known is not None:
            image, kept = (
                self._fitted(v, (height, width), "known") for v in (known[0], known[1].bool())
            )
            if len({len(image), len(kept)} - {1, len(condition[0].tokens)}):
                raise UserError(
                    f"{len(image)} known pictures with {len(kept)} masks are given for"
                    f" {len(condition[0].tokens)} pictures to draw"
                )
            image, kept = (v.expand(len(condition[0].tokens), *v.shape[1:]) for v in (image, kept))
            given = self.first_stage.encode(image)
        rows, columns = (n + -n % self.multiple for n in (height, width))
        grids = self.first_stage.grids(rows, columns)
        options: dict[str, Any] = {
            "generators": generators(sampling.seed, first, len(condition[0].tokens)),
            "crop": self.crop,
        }
        codes: Codes = ()
        for level, (prior, grid) in enumerate(zip(self.priors, grids)):
            if known is not None:
                options["known"] = (given[level], _whole(kept, rows // grid[0]))
            if on_row is not None and level == len(grids) - 1:
                options["on_row"] = lambda drawn, number, coarser=codes: on_row(
                    (*coarser, drawn), number
                )
            codes += (
                sample(prior, self.level_condition(condition, codes), grid, sampling, **options),
            )
        return self.decode(codes)[..., :height, :width]

    def check_guidance(self) -> None:
        """Raises UserError where the prior never heard null_condition, so that there is nothing to be
        guided away from.
        """
        if (
            any(getattr(prior, "tied", False) for prior in self.priors)
            or self.condition_dropout == 0
        ):
            raise UserError(
                "guidance needs a prior that was trained with condition_dropout above 0, and this"
                " one was not; leave guidance at 1"
            )

    def _fitted(self, value: Tensor, size: tuple[int, int], name: str) -> Tensor:
        """Pictures and label maps, continued to sides that the grids divide."""
        if tuple(value.shape[-2:]) != size:
            raise UserError(
                f"'{name}' is {value.shape[-2]}x{value.shape[-1]}, but the picture to draw is"
                f" {size[0]}x{size[1]}; make them equal"
            )
        return pad_to_multiple(value, self.multiple)


def _whole(kept: Tensor, stride: int) -> Tensor:
    """Codes (B, h, w) of which every pixel of the patch is marked in `kept` (B, H, W)."""
    return nn.functional.max_pool2d((~kept)[:, None].float(), stride)[:, 0] == 0


def _is_picture(value, key: str | None) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 3 and key != "boxes"


def generators(seed: int, first: int | list[int], count: int) -> list[torch.Generator]:
    """One per picture, so that picture i is the same whatever batch it is drawn in."""
    numbers = range(first, first + count) if isinstance(first, int) else first
    return [
        torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63) for number in numbers
    ]
