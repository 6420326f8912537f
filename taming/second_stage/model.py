"""SecondStage: a first stage, a conditioner and a prior for each level of codes: what a second-
stage checkpoint is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from taming.config.ranges import Size
from taming.data.card import Card
from taming.data.layouts import read_layout
from taming.errors import UserError, did_you_mean
from taming.first_stage.interface import Codes, FirstStage, evaluating, pad_to_multiple
from taming.second_stage.conditioners import CoarserCodes, entry_of
from taming.second_stage.conditioners.label_map import label_shares
from taming.second_stage.interface import (
    Condition,
    Conditioner,
    Part,
    PartShape,
    Prior,
    PriorShape,
    Window,
    describe,
)
from taming.second_stage.sampling import Sampling, sample
from taming.second_stage.window import decode_tiled


@dataclass(frozen=True)
class Request:
    """What `SecondStage.sample` is asked for, beside its batch; see there."""

    sampling: Sampling
    known: tuple[Tensor, Tensor] | None
    first: int | list[int]
    on_row: Callable[[Codes, int], None] | None
    on_step: Callable[[int, int], None] | None


class SecondStage(nn.Module):
    """The first stage and the conditioner are frozen; the priors learn: p(codes | condition) =
    product over levels of p(level | coarser levels, condition).

    Args:
        first_stage: the tokenizer of the pictures.
        conditioner: what the priors are conditioned on.
        prior: where there is one level of codes.
        priors: one per level, coarse to fine; each reads the conditioner's parts, then one raster
            for every coarser level.
        size: of the pictures to train on, from which the priors' num_codes, grid and parts follow;
            only for priors that were built with all three it may be left out.
    """

    def __init__(
        self,
        first_stage: FirstStage,
        conditioner: Conditioner,
        prior: Prior | None = None,
        priors: list[Prior] | None = None,
        size: Size | None = None,
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
        levels = [prior] if prior is not None else list(priors or [])
        if len(levels) != len(first_stage.num_codes):
            raise UserError(
                f"model.params: {len(levels)} prior{' is' if len(levels) == 1 else 's are'} given,"
                f" but the first stage has {len(first_stage.num_codes)} levels; give"
                " model.params.priors, one for each, coarse to fine"
            )
        self.first_stage = first_stage.requires_grad_(False)
        self.conditioner = conditioner.requires_grad_(False)
        self.priors = nn.ModuleList(levels)
        self.coarser = CoarserCodes(first_stage.num_codes)
        self._set_shapes(None if size is None else _sides(size))
        # How often the prior was trained without its condition; None where nobody knows
        self.condition_dropout: float | None = None
        self.card = Card()  # names, colours and settings, where the checkpoint has some

    def _shapes(self, size: tuple[int, int]) -> list[PriorShape]:
        """Of each level's prior, for pictures of this size."""
        try:
            grids, parts = self.first_stage.grids(*size), self.conditioner.parts(size)
        except UserError as error:
            raise UserError(f"model.params.size: {error}") from None
        shapes = []
        for num_codes, grid in zip(self.first_stage.num_codes, grids):
            shapes.append(PriorShape(num_codes, grid, parts))
            parts += (PartShape(num_codes, grid),)
        return shapes

    def _set_shapes(self, size: tuple[int, int] | None) -> None:
        """Builds the priors that wait for it, and checks the others."""
        shapes = [] if size is None else self._shapes(size)
        for i, (prior, num_codes) in enumerate(zip(self.levels, self.first_stage.num_codes)):
            place = "model.params.prior" if len(self.levels) == 1 else f"model.params.priors[{i}]"
            if not prior.has_shape:
                if not shapes:
                    raise UserError(
                        "model.params.size: missing; say the size in pixels of the pictures to"
                        " train on, for example size: 64"
                    )
                try:
                    prior.set_shape(num_codes, shapes[i].grid, shapes[i].parts)
                    start_prior(prior, self.first_stage)
                except ValueError as error:
                    raise UserError(f"{place}: {error}") from None
            if prior.num_codes != num_codes:
                raise UserError(
                    f"{place}: num_codes is {prior.num_codes}, but the first stage has"
                    f" {num_codes} codes; leave it out, or take the first stage that the prior was"
                    " trained on"
                )
            if size is not None and prior.grid != shapes[i].grid:
                raise UserError(
                    f"{place}: grid is {list(prior.grid)}, but model.params.size"
                    f" {size[0]}x{size[1]} gives {list(shapes[i].grid)}; leave one of them out"
                )

    @property
    def levels(self) -> list[Prior]:
        """The priors, coarse to fine."""
        return cast(list[Prior], list(self.priors))

    @property
    def prior(self) -> Prior:
        """The only one, where there is one level; else the coarsest level's."""
        return self.levels[0]

    def train(self, mode: bool = True) -> "SecondStage":
        super().train(mode)
        self.first_stage.eval()
        self.conditioner.eval()
        return self

    def encode(self, image: Tensor) -> Codes:
        """The first stage's codes of images (B, C, H, W) in [-1, 1]."""
        return self.first_stage.encode(image)

    def decode(self, codes: Codes) -> Tensor:
        """(B, C, H, W), as the decoder gives it: about [-1, 1]; large grids in tiles."""
        return decode_tiled(self.first_stage, codes)

    @property
    def trained_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        finest = self.levels[-1].grid
        return finest[0] * self.first_stage.stride, finest[1] * self.first_stage.stride

    @property
    def multiple(self) -> int:
        """Sides of a picture that code grid and condition fit are multiples of this many pixels."""
        return math.lcm(self.first_stage.multiple, self.conditioner.multiple)

    def scene(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size that the priors draw, code after code, for a picture of this size."""
        return size

    def level_bytes(self, size: tuple[int, int]) -> int:
        """Memory for what is drawn in parallel on top of it, for each picture."""
        return 0

    def size_of(self, batch: dict) -> tuple[int, int]:
        """Height and width of the picture to draw where nothing else is said: the condition's, else
        what the prior was trained on.
        """
        return self.conditioner.size_of(batch) or self.trained_size

    def with_coarser(self, condition: Condition, coarser: Codes) -> Condition:
        """What the prior of the next level is conditioned on: these levels too."""
        return condition + self.coarser({"codes": coarser})

    def null_condition(self, size: tuple[int, int], count: int = 1) -> Condition:
        """The condition of pictures of this size of which nothing is said, for the coarsest level;
        where there is no condition at all, what there is.
        """
        if self.conditioner.key is None:
            device = next(self.priors.parameters()).device
            return tuple(part.to(device) for part in self.conditioner({"count": count}))
        device = next(self.priors.parameters()).device
        parts = []
        for shape in self.conditioner.parts(size):
            tokens = torch.full((count, shape.length), shape.vocabulary, device=device)
            parts.append(Part(tokens, shape.vocabulary, shape.grid))
        return tuple(parts)

    def log_prob(self, codes: Codes, condition: Condition) -> Tensor:
        """log p(codes | condition) in nats, all levels together, (B,).

        Raises:
            UserError: for codes that are none of this first stage's.
        """
        if isinstance(codes, Tensor) or len(codes) != len(self.levels):
            raise UserError(
                f"codes should be a tuple of {len(self.levels)}, one (B, h, w) for each level"
            )
        levels = []
        for level, (prior, grid) in enumerate(zip(self.levels, codes)):
            levels.append(prior.log_prob(grid, self.with_coarser(condition, codes[:level])))
        return torch.stack(levels).sum(dim=0)

    def crop(self, condition: Condition, window: Window, grid: tuple[int, int]) -> Condition:
        """The conditioner's own rule for its parts; coarser levels are rasters."""
        passing = tuple(part for part in condition if not part.permanent)
        coarser = tuple(part.crop(window, grid) for part in condition if part.permanent)
        return self.conditioner.crop(passing, window, grid) + coarser

    @torch.no_grad()
    def sample(
        self,
        batch: dict | Any,
        size: tuple[int, int] | None = None,
        *,
        sampling: Sampling | None = None,
        known: tuple[Tensor, Tensor] | None = None,
        first: int | list[int] = 0,
        on_row: Callable[[Codes, int], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        **changes: Any,
    ) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] for what the batch says (see the conditioner):
        {"segmentation": int64 (B, H, W)}, {"class": int64 (B,)}, {"count": B}, ...; or for one
        mask alone, of PIL, an array, labels (H, W), or a file, which is brought to the size; one
        class by number or name.

        Where the code grid needs more than the size, rasters of the condition and known pictures
        are continued by their last row and column, and what was drawn there is cut off.

        Args:
            size: (H, W), by default that of the condition's picture, else what the prior was
                trained on; any size will do.
            sampling: seed, temperature, filters, guidance, hop; see Sampling. By default what the
                checkpoint recommends.
            known: an image (B, C, H, W) and a bool mask (B, H, W) of what stays of it; a code stays
                where all of its patch is marked.
            first: picture i draws from (seed, first + i); a list has the number of each.
            on_row: called with the codes so far (of the finest level, behind those of the coarser
                ones) and the number of its rows.
            on_step: called before each step with the number of steps done and of all steps of a
                level; what it raises ends the drawing.
            changes: fields of Sampling, changed: seed=1, temperature=0.9, ...
        """
        if size is not None:
            changes["size"] = size
        sampling = Sampling.of(sampling or self.card.settings(), **changes).seeded()
        if sampling.accept != 1:
            raise UserError(
                f"accept {sampling.accept} needs a judge of the candidates; draw with"
                " taming.second_stage.rejection.rejection_sample"
            )
        if sampling.guides:
            self.check_guidance(sampling)
        if not isinstance(batch, dict):
            batch = self._batch_of(batch, sampling.size)
        batch = self.conditioner.complete(batch)
        for key in self.conditioner.spatial_keys:
            if key in batch or len(self.conditioner.keys) == 1:
                batch = {**batch, key: entry_of(batch, key)}
        with evaluating(self):
            return self._sample(batch, Request(sampling, known, first, on_row, on_step))

    def _batch_of(self, condition: Any, size: tuple[int, int] | None) -> dict:
        """What a batch would say of one condition: a mask in any shape, resized until it covers the
        size and cropped; a class.
        """
        legend = self.card.legend(self.conditioner.labels)
        names = self.card.classes
        keys = self.conditioner.keys
        if "segmentation" in keys and legend is not None and not isinstance(condition, int):
            if isinstance(condition, Tensor) and condition.ndim == 3 and condition.shape[-1] > 4:
                return {"segmentation": condition}
            layout = read_layout(condition, legend).filled()
            layout = layout if size is None else layout.covering(size)
            return {"segmentation": layout.labels()[None]}
        if "class" in keys and isinstance(condition, int | str):
            if isinstance(condition, str) and condition not in names:
                raise UserError(f"class '{condition}' is unknown{did_you_mean(condition, names)}")
            number = names.index(condition) if isinstance(condition, str) else condition
            return {"class": torch.tensor([number])}
        raise UserError(
            f"a batch should be a dictionary such as {{'count': 4}}, not {describe(condition)}"
        )

    def _sample(self, batch: dict, request: Request) -> Tensor:
        sampling, known, on_row = request.sampling, request.known, request.on_row
        # 1. the size in pixels, and the grids that cover it
        size = sampling.size or self.size_of(batch)
        rows, columns = (side + -side % self.multiple for side in size)
        grids = self.first_stage.grids(rows, columns)
        # 2. the condition, and the codes that stay
        device = next(self.priors.parameters()).device  # of a number of pictures, none is known
        parts = self.conditioner(self._fitted_batch(batch, size))
        condition = tuple(part.to(device) for part in parts)
        count = len(condition[0].tokens)
        known_codes = None if known is None else self._known_codes(known, size, count, grids)
        strengths = self.strengths(batch, size, sampling, grids)
        # 3. level by level, each conditioned on those before
        options: dict[str, Any] = {
            "generators": generators(sampling.seed or 0, request.first, count),
            "on_step": request.on_step,
        }
        codes: Codes = ()
        for level, (prior, grid) in enumerate(zip(self.levels, grids)):
            if known_codes is not None:
                options["known"] = known_codes[level]
            if on_row is not None and level == len(grids) - 1:
                options["on_row"] = lambda finest, number, coarser=codes: on_row(
                    (*coarser, finest), number
                )
            conditioned = self.with_coarser(condition, codes)
            options["strengths"] = strengths[level]
            codes += (sample(prior, conditioned, grid, sampling, crop=self.crop, **options),)
        # 4. the picture, without what was drawn beyond its size
        return self.decode(codes)[..., : size[0], : size[1]].clamp(-1, 1)

    def strengths(
        self,
        batch: dict,
        size: tuple[int, int],
        sampling: Sampling,
        grids: tuple[tuple[int, int], ...],
    ) -> list[Tensor | None]:
        """Of guidance at each code of each level (B, h, w), by the label that covers most of it;
        None where it is the same everywhere.
        """
        if not sampling.guidance_labels:
            return [None] * len(grids)
        labels, names = self.conditioner.labels, self.card.labels
        if labels is None or self.conditioner.key is None:
            raise UserError(
                "guidance_labels: this prior is not conditioned on masks; give guidance alone"
            )
        table = torch.full((labels,), float(sampling.guidance))
        for name, strength in sampling.guidance_labels.items():
            number = names.index(name) if name in names else int(name) if name.isdecimal() else -1
            if not 0 <= number < labels:
                known = names or [f"0 to {labels - 1}"]
                raise UserError(f"guidance_labels: '{name}' is no label{did_you_mean(name, known)}")
            table[number] = strength
        mask = self._fitted_batch(batch, size)[self.conditioner.key]
        table = table.to(mask.device)
        return [table[label_shares(mask, labels, grid).argmax(dim=1)] for grid in grids]

    def _fitted_batch(self, batch: dict, size: tuple[int, int]) -> dict:
        """The batch, its picture continued to sides that the grids divide."""
        batch = {**batch, "size": tuple(side + -side % self.multiple for side in size)}
        for key in self.conditioner.spatial_keys:
            if key not in batch:
                continue
            if self.conditioner.resizes and tuple(batch[key].shape[-2:]) != size:
                continue
            batch[key] = self._fitted(batch[key], size, key)
        return batch

    def _known_codes(
        self,
        known: tuple[Tensor, Tensor],
        size: tuple[int, int],
        count: int,
        grids: tuple[tuple[int, int], ...],
    ) -> list[tuple[Tensor, Tensor]]:
        """For each level codes (count, h, w) and where they stay, bool (count, h, w)."""
        image, mask = check_known(known)
        image, mask = self._fitted(image, size, "known"), self._fitted(mask, size, "known")
        if len({len(image), len(mask)} - {1, count}):
            raise UserError(
                f"known: images {len(image)}, masks {len(mask)}, pictures to draw {count}; give one"
                " for all, or one for each"
            )
        mask = mask.expand(count, *mask.shape[1:])
        codes = self.first_stage.encode(image.expand(count, *image.shape[1:]))
        stays = (_all_marked(mask, mask.shape[1] // grid[0]) for grid in grids)
        return list(zip(codes, stays))

    def check_guidance(self, sampling: Sampling | None = None) -> None:
        """Raises UserError where the prior was never trained on the null condition, so that there
        is nothing to be guided away from, and where there is no second condition to guide by.
        """
        if sampling and sampling.guidance_second is not None and 1 not in self.conditioner.groups:
            raise UserError(
                f"guidance_second {sampling.guidance_second:g} is of a second condition, and this"
                " prior has one; leave it out"
            )
        if self.condition_dropout == 0 or not all(prior.knows_null for prior in self.levels):
            raise UserError(
                "guidance needs a prior that was trained with condition_dropout above 0, and this"
                " one was not; leave guidance at 1"
            )

    def _fitted(self, image: Tensor, size: tuple[int, int], name: str | None) -> Tensor:
        """Images (B, C, H, W) and labels (B, H, W), continued to sides that the grids divide."""
        if image.ndim not in (3, 4):
            raise UserError(
                f"'{name}' should be an image (B, C, H, W) or labels (B, H, W), not"
                f" {describe(image)}"
            )
        if tuple(image.shape[-2:]) != size:
            raise UserError(
                f"'{name}' is {image.shape[-2]}x{image.shape[-1]}, but the picture to draw is"
                f" {size[0]}x{size[1]}; make them equal"
            )
        return pad_to_multiple(image, self.multiple)


def start_prior(prior: Prior, first_stage: FirstStage) -> None:
    """Tells a fresh prior what the codes of a first stage of one level stand for."""
    has_weights = first_stage.last_layer.device.type != "meta"
    if prior.alike and has_weights and len(first_stage.num_codes) == 1:
        prior.start_from(first_stage.quantizer.codebook())


def check_known(known: Any) -> tuple[Tensor, Tensor]:
    """An image (B, C, H, W), or labels (B, H, W), and a bool mask (B, H, W) of the same size.
    Raises UserError for anything else.
    """
    if not isinstance(known, tuple | list) or len(known) != 2:
        raise UserError("known should be an image and a mask of what stays of it")
    image, mask = known
    if not isinstance(image, Tensor) or image.ndim not in (3, 4):
        raise UserError(
            f"the known image should be (B, C, H, W), or labels (B, H, W), not {describe(image)}"
        )
    if (
        not isinstance(mask, Tensor)
        or mask.ndim != 3
        or not bool(((mask == 0) | (mask == 1)).all())
    ):
        raise UserError(f"the known mask should be bool (B, H, W), not {describe(mask)}")
    if image.shape[-2:] != mask.shape[-2:]:
        raise UserError(
            f"the known image is {image.shape[-2]}x{image.shape[-1]}, but its mask is"
            f" {mask.shape[-2]}x{mask.shape[-1]}; make them equal"
        )
    return image, mask.bool()


def _all_marked(mask: Tensor, stride: int) -> Tensor:
    """Codes (B, h, w) of which every pixel of the patch is marked in `mask` (B, H, W)."""
    return nn.functional.max_pool2d((~mask)[:, None].float(), stride)[:, 0] == 0


def _sides(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def generators(seed: int, first: int | list[int], count: int) -> list[torch.Generator]:
    """One per picture, so that picture i is the same whatever batch it is drawn in."""
    numbers = range(first, first + count) if isinstance(first, int) else first
    if len(numbers) != count:
        raise UserError(f"first: {len(numbers)} numbers for {count} pictures; list one for each")
    seeds = ((seed * 1_000_003 + number) % 2**63 for number in numbers)
    return [torch.Generator().manual_seed(one) for one in seeds]
