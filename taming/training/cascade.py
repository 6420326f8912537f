"""Training the level of a cascade: masked codes of pieces of scenes, given the coarser picture as
it will come: reconstructed, blurred, noisy, and by how much.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.experiment import Experiment
from taming.data.interface import PictureSet
from taming.errors import UserError
from taming.first_stage.interface import evaluating, precise
from taming.images import montage
from taming.second_stage.cascade import Cascade, enlarged, halved
from taming.second_stage.interface import Condition, Prior
from taming.training.checks import SETS, check_labels, single_batch
from taming.training.second_stage import SecondStageTraining, corrupt

RECONSTRUCTED = 0.5  # share of the coarse pictures that went through the tokenizer
DISTURBED = 0.5  # share that is blurred, and share that is noisy
BLUR, NOISE = 1.5, 0.2  # the largest of each; pixels, and colours in [-1, 1]


class CascadeTraining(SecondStageTraining):
    """Only the level learns. Pieces are larger than what it sees, so that codes and coarse pictures
    are those of the inside of a picture; its window is their middle.
    """

    def __init__(self, experiment: Experiment, model: Cascade):
        super().__init__(experiment, model, ())

    @property
    def cascade(self) -> Cascade:
        assert isinstance(self.model, Cascade)
        return self.model

    def trained(self) -> nn.Module:
        return self.cascade.level

    def learners(self) -> list[Prior]:
        return [self.cascade.level]

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        # 1. codes of the middle, and what is said about them
        batch = self.to_device(batch)
        coarse = self.coarse(batch["image"], RECONSTRUCTED)
        coarse, circumstances = disturbed(coarse)
        codes, condition = self.window({**batch, **circumstances, "coarse": coarse})
        dropout = self.experiment.condition_dropout
        if dropout:
            dropped = torch.rand(len(codes), device=codes.device) < dropout
            condition = tuple(part.null(dropped) for part in condition)
        # 2. the hidden ones of them
        level = self.cascade.level
        noisy = corrupt(codes, self.noise(), level.num_codes)
        loss = self.objectives[0](level, noisy, codes, condition, self.progress())
        # 3. one step
        self.manual_backward(loss / self.experiment.trainer.accumulate_grad_batches)
        if last:
            self.step_all()
        return {"nll": loss.detach()}

    @torch.no_grad()
    def coarse(self, image: Tensor, share: float) -> Tensor:
        """(B, 3, H / 2, W / 2), the first of the batch as the tokenizer reconstructs them."""
        coarse, count = halved(image), round(share * len(image))
        if not count:
            return coarse
        stage = self.cascade.first_stage
        with evaluating(stage):
            known = stage.reconstruct(coarse[:count]).clamp(-1, 1)
        return torch.cat([known.to(coarse), coarse[count:]])

    @torch.no_grad()
    def window(self, batch: dict) -> tuple[Tensor, Condition]:
        """Codes (B, h, w) of the middle of the pieces, and its condition."""
        codes = self.cascade.tokenizer.encode(batch["image"])[0]
        grid = (codes.shape[1], codes.shape[2])
        height, width = self.cascade.level.grid
        top, left = (grid[0] - height) // 2, (grid[1] - width) // 2
        window = (top, left, height, width)
        condition = self.cascade.doubling.crop(self.cascade.doubling(batch), window, grid)
        return codes[:, top : top + height, left : left + width].contiguous(), condition

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        """Of reconstructed coarse pictures, by the level's chain of passes."""
        batch, level = self.to_device(batch), self.evaluated().level
        codes, condition = self.window({**batch, "coarse": self.coarse(batch["image"], 1.0)})
        counts = torch.bincount(codes.flatten(), minlength=level.num_codes)
        dtype = precise(codes.device)
        nll = -level.log_prob(codes, condition).to(dtype).sum()
        return {"nll/0": nll, "codes/0": counts.to(dtype)}

    def evaluated(self) -> Cascade:
        return self.with_averaged(self.cascade, "level")

    def draw(self, batch: dict) -> Tensor:
        """Piece, its coarse picture, and what the level makes of that."""
        batch = self.to_device(batch)
        coarse = self.coarse(batch["image"], 1.0)
        drawn, _ = self.evaluated().enlarge(coarse, batch)
        return montage([batch["image"], enlarged(coarse), drawn])


def disturbed(coarse: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures (B, 3, h, w), some blurred, some with noise, random by how much; and how much."""
    blur, noise = (
        most * torch.rand(len(coarse)) * (torch.rand(len(coarse)) < DISTURBED)
        for most in (BLUR, NOISE)
    )
    blur, noise = blur.to(coarse), noise.to(coarse)
    coarse = blurred(coarse, blur)
    coarse = coarse + noise[:, None, None, None] * torch.randn_like(coarse)
    return coarse, {"blur": blur, "noise": noise}


def blurred(image: Tensor, deviations: Tensor) -> Tensor:
    """Each picture (3, h, w) under a Gaussian of its own standard deviation in pixels; 0: none."""
    radius = math.ceil(3 * BLUR)
    places = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-places.square() / (2 * deviations[:, None].clamp(min=0.1).square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(image.shape[1], 0)[:, None]
    rows = image.flatten(0, 1)[None]
    rows = F.pad(rows, (radius,) * 4, mode="replicate")
    rows = F.conv2d(rows, kernel[:, :, None], groups=len(kernel))
    rows = F.conv2d(rows, kernel[..., None], groups=len(kernel))
    return rows[0].view(image.shape)


def check_pieces(model: Cascade, sets: tuple[PictureSet, PictureSet | None]) -> None:
    """Raises UserError where items are no pieces that the level can learn from."""
    for name, dataset in zip(SETS, sets):
        if dataset is None:
            continue
        batch = single_batch(dataset)
        wanted = ["image", "crop", *["segmentation"] * bool(model.doubling.labels)]
        missing = [entry for entry in wanted if entry not in batch]
        if missing:
            raise UserError(
                f"data.{name}: items have no '{missing[0]}', which a level of a cascade learns"
                " from; take taming.data.ScenePieces"
            )
        height, width = batch["image"].shape[-2:]
        # The coarser picture is half as large and goes through the tokenizer too
        multiple = max(2 * model.first_stage.multiple, model.tokenizer.multiple)
        if height % multiple or width % multiple:
            raise UserError(
                f"data.{name}: pieces of {height}x{width} should have sides that are multiples of"
                f" {multiple}"
            )
        check_labels(model.doubling.labels, dataset, name)
        grid = model.tokenizer.grids(height, width)[0]
        if grid[0] < model.level.grid[0] or grid[1] < model.level.grid[1]:
            raise UserError(
                f"data.{name}: pieces of {height}x{width} are smaller than the level's window of"
                f" {model.level.grid[0]}x{model.level.grid[1]} codes"
            )
