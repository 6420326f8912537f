"""Large pictures: a whole scene is drawn small by a prior that sees it whole, then doubled level by
level. Each level reads the coarser picture and the layout at each position, and draws its codes
in parallel, in windows whose tiling moves.

Ho et al. 2021 (arXiv 2106.15282) for cascades whose levels learn on disturbed coarse pictures and
are told how much; here the levels are masked priors over codes (Chang et al. 2022, arXiv
2202.04200), all doublings one network that is told its scale.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.config.ranges import Count, Range
from taming.config.sampling import Sampling
from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.images import IGNORE
from taming.precision import autocast
from taming.second_stage.conditioners import entry_of
from taming.second_stage.conditioners.label_map import label_shares
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape, Prior, describe
from taming.second_stage.model import Request, SecondStage, check_known, generators, start_prior
from taming.second_stage.sampling import sample
from taming.second_stage.window import decode_tiled

SCENE = 1.75
"""How many times longer than the base's trained size the long side of a scene may be."""
SMALLEST = 0.5
"""Of the base's trained size: the short side of a scene is no shorter."""
MAPS = 6
"""Of the width of the level, over all codes, that are in memory at once."""
CODE_COST = 32
"""Time of a code of the base, in that of a code in one pass of a level."""


class Doubling(Conditioner):
    """What a level reads: at each code the coarser picture under it, row and column in the whole
    picture, how large that is, and how much its coarser picture was disturbed; and the shares of
    the labels.

    Reads batch["coarse"], float (B, 3, H / 2, W / 2) in [-1, 1]; with labels, batch["segmentation"]
    int64 (B, n H, n W); of a piece also batch["crop"] (B, 4), left, top, right, bottom relative to
    the whole; batch["blur"] and batch["noise"] (B,), the standard deviations of the disturbance in
    pixels of the coarser picture and of its colours, by default none.

    Args:
        stride: pixels under a code of the pictures that are drawn.
        labels: of the masks; 0: there are none.
        finest: the short side in pixels of the largest pictures of the training; still larger ones
            are told to be of that size.
    """

    key = "coarse"

    def __init__(
        self,
        stride: Annotated[int, Range(1, 256)],
        labels: Annotated[int, Range(0, 2**16)] = 0,
        finest: Count = 512,
    ):
        super().__init__()
        self.stride, self.count, self.finest = stride, labels, finest

    @property
    def labels(self) -> int | None:
        return self.count or None

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        grid = (size[0] // self.stride, size[1] // self.stride)
        coarse = PartShape(1, grid, 3 * self.stride**2 + 5)
        return (coarse, PartShape(1, grid, self.count)) if self.count else (coarse,)

    def forward(self, batch: dict) -> Condition:
        coarse = check_coarse(batch, self.stride)
        height, width = (2 * side for side in coarse.shape[-2:])
        grid = (height // self.stride, width // self.stride)
        patches = F.pixel_unshuffle(enlarged(coarse), self.stride)
        values = torch.cat([patches, self._circumstances(batch, coarse, grid)], dim=1)
        parts = [self._part(values, grid, permanent=True)]
        if self.count:
            parts.append(self._part(shares_of(batch, self.count, grid, self.stride), grid))
        return tuple(parts)

    def _circumstances(self, batch: dict, coarse: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 5, h, w): row, column, size of the whole picture, blur, noise."""
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=coarse.device)
        crop = batch.get("crop", whole.expand(len(coarse), 4)).to(coarse)
        left, top, right, bottom = crop.unbind(1)
        rows, columns = (
            (start[:, None] + (end - start)[:, None] * (torch.arange(n).to(coarse) + 0.5) / n)
            for start, end, n in ((top, bottom, grid[0]), (left, right, grid[1]))
        )
        short = torch.minimum(
            grid[0] * self.stride / (bottom - top), grid[1] * self.stride / (right - left)
        )
        numbers = [(short.clamp(max=self.finest) / 64).log2() / 2 - 1]
        numbers += [batch.get(key, torch.zeros_like(left)).to(coarse) for key in ("blur", "noise")]
        maps = [
            2 * rows[:, :, None].expand(-1, *grid) - 1,
            2 * columns[:, None].expand(-1, *grid) - 1,
        ]
        maps += [number[:, None, None].expand(-1, *grid) for number in numbers]
        return torch.stack(maps, dim=1)

    @staticmethod
    def _part(values: Tensor, grid: tuple[int, int], permanent: bool = False) -> Part:
        tokens = torch.zeros(
            len(values), grid[0] * grid[1], dtype=torch.int64, device=values.device
        )
        return Part(tokens, 1, grid, permanent, values.flatten(2).mT.contiguous())


class Cascade(SecondStage):
    """A prior of whole small scenes, and one level that doubles them, again and again. Pictures up
    to the trained size are the base's alone.

    Args:
        base: of the scenes; its tokenizers are the cascade's. It is not trained any more.
        level: draws the codes of the doubled picture.
        window: side in pixels of what the level sees at once.
        finest: see Doubling.
        blur: what the level is told of its coarser pictures in a sample, see Doubling.
        first_stage: of the level's codes, if not the base's; one of a larger stride draws faster.
    """

    def __init__(
        self,
        base: SecondStage,
        level: Prior,
        window: Count = 64,
        finest: Count = 512,
        blur: Annotated[float, Range(0, 8)] = 0.0,
        first_stage: FirstStage | None = None,
    ):
        if len(base.levels) != 1 or base.first_stage.in_channels != 3:
            raise UserError(
                "model.params.base: a cascade doubles RGB pictures of one level of codes; this"
                f" prior's first stage has {len(base.levels)} levels and"
                f" {base.first_stage.in_channels} channels"
            )
        super().__init__(base.first_stage, base.conditioner, priors=base.levels)
        self.priors.requires_grad_(False)
        self.card, self.blur = base.card, blur
        self.fine_stage = None if first_stage is None else first_stage.requires_grad_(False)
        self.doubling = Doubling(self.tokenizer.stride, self._labels(), finest)
        self.level = level
        if not level.has_shape:
            grid = self.tokenizer.grids(window, window)[0]
            parts = self.doubling.parts((window, window))
            level.set_shape(self.tokenizer.num_codes[0], grid, parts)
            start_prior(level, self.tokenizer)

    @property
    def tokenizer(self) -> FirstStage:
        """Of what the level draws."""
        return self.first_stage if self.fine_stage is None else self.fine_stage

    def _labels(self) -> int:
        """Of the masks that the base reads."""
        return self.conditioner.labels or 0 if self.conditioner.key == "segmentation" else 0

    def train(self, mode: bool = True) -> "Cascade":
        super().train(mode)
        self.priors.eval()
        if self.fine_stage is not None:
            self.fine_stage.eval()
        return self

    def doublings(self, size: tuple[int, int]) -> int:
        """How often a scene is doubled for a picture of this size: as often as it takes until the
        base sees (almost) all of it at once.
        """
        number, trained = 0, min(self.trained_size)
        short, long = min(size), max(size)
        while short > trained or long > SCENE * trained:
            if short / 2 < SMALLEST * trained:
                break
            short, long, number = short / 2, long / 2, number + 1
        return number

    def scene(self, size: tuple[int, int]) -> tuple[int, int]:
        number = self.doublings(size)
        if not number:
            return size
        multiple = max(self.multiple, -(-self.tokenizer.stride // 2))
        rows, columns = (-(-side // (multiple << number)) * multiple for side in size)
        return rows, columns

    def level_bytes(self, size: tuple[int, int]) -> int:
        """Maps of the condition over all codes of the last level, float32."""
        width = getattr(self.level, "width", 0)
        codes = size[0] * size[1] // self.tokenizer.stride**2
        return MAPS * 4 * width * codes if self.doublings(size) else 0

    def _sample(self, batch: dict, request: Request) -> Tensor:
        # 1. the sizes of the scene and of each level, of which the last covers the picture
        sampling, known, first = request.sampling, request.known, request.first
        size = sampling.size or self.size_of(batch)
        number = self.doublings(size)
        if not number:
            return super()._sample(batch, request)
        scene = self.scene(size)
        full = (scene[0] << number, scene[1] << number)
        # 2. layout and known pictures, continued to the last level's size
        batch = self._continued(batch, size, full)
        known = None if known is None else self._continued_known(known, size, full)
        progress = Progress.of(request.on_step, self, scene, number, sampling)
        # 3. the scene
        small = replace(
            request,
            sampling=replace(sampling, size=scene),
            known=None if known is None else known_at(known, scene),
            on_step=progress.base,
        )
        picture = super()._sample(self._scene_batch(batch, full, scene), small)
        # 4. level by level; the coarser picture says more than guidance could
        plain = {"guidance": 1.0, "guidance_second": None, "guidance_labels": None, "fast": "off"}
        unguided = replace(sampling, **plain)
        for k in range(1, number + 1):
            streams = generators((sampling.seed or 0) ^ (0x5EED00 + k), first, len(picture))
            picture, codes = self.enlarge(
                picture, batch, unguided, known, streams, progress.level(k)
            )
            if request.on_row is not None:
                request.on_row((codes,), codes.shape[1])
        return picture[..., : size[0], : size[1]]

    @torch.no_grad()
    def enlarge(
        self,
        coarse: Tensor,
        batch: dict,
        sampling: Sampling | None = None,
        known: tuple[Tensor, Tensor] | None = None,
        streams: list[torch.Generator] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The picture of twice the size (B, 3, 2 h, 2 w), and its codes.

        Its low frequencies are the coarser picture's: else each level adds contrast, until sky and
        rock are white and black.

        Args:
            coarse: (B, 3, h, w) in [-1, 1].
            batch: with labels, "segmentation" of the whole picture, of this size or a multiple of
                it; blur and noise, see Doubling.
            sampling: temperature, filters, steps, guidance.
            known: pixels that stay, at the size of the segmentation.
            streams: the random numbers of each picture.
        """
        blur = torch.full((len(coarse),), self.blur, device=coarse.device)
        condition = self.doubling({"blur": blur, **batch, "coarse": coarse})
        grid = condition[0].grid
        assert grid is not None
        size = (2 * coarse.shape[-2], 2 * coarse.shape[-1])
        known_codes = None if known is None else self._known_level(known, size, grid)
        codes = sample(
            self.level,
            condition,
            grid,
            sampling,
            known=known_codes,
            generators=streams,
            on_step=on_step,
        )
        with autocast((sampling or Sampling()).precision, coarse.device):
            drawn = decode_tiled(self.tokenizer, (codes,)).float().clamp(-1, 1)
        return corrected(drawn, coarse), codes

    def _known_level(
        self, known: tuple[Tensor, Tensor], size: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        image, mask = known_at(known, size)
        stays = F.max_pool2d((~mask)[:, None].float(), size[0] // grid[0])[:, 0] == 0
        return self.tokenizer.encode(image)[0], stays

    def _continued(self, batch: dict, size: tuple[int, int], full: tuple[int, int]) -> dict:
        """Its picture continued to the right and below by its last row and column."""
        key = self.conditioner.key
        if not self.conditioner.spatial or key is None:
            return batch
        if self.conditioner.resizes and tuple(batch[key].shape[-2:]) != size:
            return batch
        return {**batch, key: continued(self._fitted(batch[key], size, key), full)}

    def _continued_known(
        self, known: tuple[Tensor, Tensor], size: tuple[int, int], full: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        image, mask = check_known(known)
        return (
            continued(self._fitted(image, size, "known"), full),
            continued(self._fitted(mask, size, "known"), full),
        )

    def _scene_batch(self, batch: dict, full: tuple[int, int], scene: tuple[int, int]) -> dict:
        """The batch with its picture as small as the scene: of labels the one with the largest
        share, of colours the mean.
        """
        key = self.conditioner.key
        if not self.conditioner.spatial or key is None:
            return batch
        if tuple(batch[key].shape[-2:]) != full:
            return batch
        if batch[key].is_floating_point():
            return {**batch, key: F.adaptive_avg_pool2d(batch[key], scene)}
        labels = self.conditioner.labels or int(batch[key].max()) + 1
        shares = shares_of(batch, labels, scene, key=key)
        nothing = 1 - shares.sum(dim=1, keepdim=True)
        largest = torch.cat([shares, nothing], dim=1).argmax(dim=1)
        return {**batch, key: largest.masked_fill(largest == labels, IGNORE)}


class Progress:
    """Counts the steps of all levels as one work.

    Args:
        on_step: told the work done, and all of it.
        work: of the base and of each level.
    """

    def __init__(self, on_step: Callable[[int, int], None] | None, work: list[int]):
        self.on_step, self.work = on_step, work

    @classmethod
    def of(
        cls,
        on_step: Callable[[int, int], None] | None,
        model: Cascade,
        scene: tuple[int, ...],
        number: int,
        sampling: Sampling,
    ) -> "Progress":
        codes = [scene[0] * scene[1] // model.first_stage.stride**2 * CODE_COST]
        steps = sampling.steps or getattr(model.level, "steps", 1)
        area = scene[0] * scene[1] // model.tokenizer.stride**2
        return cls(on_step, codes + [steps * area * 4**k for k in range(1, number + 1)])

    def level(self, k: int) -> Callable[[int, int], None] | None:
        """What level k calls before each of its steps; 0 is the base."""
        if self.on_step is None:
            return None
        on_step, before, work, total = (
            self.on_step,
            sum(self.work[:k]),
            self.work[k],
            sum(self.work),
        )
        return lambda done, steps: on_step(before + work * done // steps, total)

    @property
    def base(self) -> Callable[[int, int], None] | None:
        return self.level(0)


def check_coarse(batch: dict, stride: int) -> Tensor:
    """Raises UserError for what is no coarser picture, or of sides that give no whole codes."""
    coarse = entry_of(batch, "coarse")
    if not coarse.is_floating_point() or coarse.ndim != 4 or coarse.shape[1] != 3:
        raise UserError(
            f"the coarser picture should be float (B, 3, h, w) in [-1, 1], not {describe(coarse)}"
        )
    if not bool(torch.isfinite(coarse).all()):
        raise UserError("the coarser picture holds NaN or infinity; give finite numbers")
    if 2 * coarse.shape[2] % stride or 2 * coarse.shape[3] % stride:
        raise UserError(
            f"a coarser picture of {coarse.shape[2]}x{coarse.shape[3]} doubled gives no whole codes"
            f" of {stride} pixels; take sides that are multiples of {-(-stride // 2)}"
        )
    return coarse


def shares_of(
    batch: dict, labels: int, grid: tuple[int, int], stride: int = 1, key: str = "segmentation"
) -> Tensor:
    """See label_shares; `stride` pixels of the picture lie under each place. Raises UserError for
    what is no mask, or one of another picture.
    """
    mask = entry_of(batch, key)
    if mask.ndim != 3 or mask.is_floating_point():
        raise UserError(f"'{key}' should be labels (B, H, W), not {describe(mask)}")
    height, width = grid[0] * stride, grid[1] * stride
    if mask.shape[1] % height or mask.shape[2] % width:
        raise UserError(
            f"'{key}' is {mask.shape[1]}x{mask.shape[2]}, no multiple of {height}x{width}: it"
            " belongs to another level's picture"
        )
    return label_shares(mask, labels, grid)


def enlarged(image: Tensor) -> Tensor:
    """Twice the size, between the pixels linearly."""
    return F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)


def halved(image: Tensor) -> Tensor:
    """Half the size, the mean of each four pixels."""
    return F.avg_pool2d(image, 2)


def corrected(drawn: Tensor, coarse: Tensor) -> Tensor:
    """The drawn picture with the low frequencies of the coarser one."""
    return (drawn + enlarged(coarse - halved(drawn))).clamp(-1, 1)


def continued(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., H, W) continued by its last row and column."""
    rows, columns = (
        torch.arange(n, device=image.device).clamp(max=side - 1)
        for n, side in zip(size, image.shape[-2:])
    )
    return image[..., rows, :][..., columns]


def known_at(known: tuple[Tensor, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A known image and its mask at a smaller size; of a pixel stays what stays as a whole."""
    image, mask = known
    window = (mask.shape[1] // size[0], mask.shape[2] // size[1])
    stays = F.max_pool2d((~mask)[:, None].float(), window)[:, 0] == 0
    return F.avg_pool2d(image, window), stays
