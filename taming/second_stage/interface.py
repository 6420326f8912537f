"""The seam of the second stage: a prior p(codes | condition) and what makes conditions.

Letters: B batch; h, w code grid; K codes in the codebook; M condition length; V condition
vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Length, Range
from taming.config.sampling import Fast
from taming.errors import UserError
from taming.first_stage.interface import FirstStage

Depth = Annotated[int, Range(1, 1024)]
"""A number of layers or blocks."""
Width = Annotated[int, Range(1, 2**16)]
"""Numbers at each place between layers."""
Kernel = Annotated[int, Range(1, 255)]
"""The side of a convolution."""
NumCodes = Annotated[int, Range(1, 2**24)]
Grid = Annotated[list[Annotated[int, Range(1, 1024)]], Length(2, 2)]
"""Rows and columns of codes."""


@dataclass(frozen=True)
class PartShape:
    """What one piece of a condition has in common for all pictures of a size.

    Args:
        vocabulary: number of tokens; the id `vocabulary` is one more, the null condition.
        size: how many tokens there are, or, for a raster aligned with the codes, rows and columns.
        features: how many numbers come with each token, for conditions that are no names but
            amounts: the pixels of a coarser picture.
    """

    vocabulary: int
    size: int | tuple[int, int] = 1
    features: int = 0

    @classmethod
    def of(cls, plain: "PartShape | Mapping[str, Any]") -> "PartShape":
        """From {vocabulary: V, grid: [h, w]} for a raster, else {vocabulary: V, length: M}, both
        with features: n where numbers come with the tokens. Raises ValueError for anything else.
        """
        if isinstance(plain, PartShape):
            return plain
        expectation = (
            "should be {vocabulary: V, grid: [h, w]} for a raster, else {vocabulary: V, length: M}"
        )
        keys = {"vocabulary", "grid", "length", "features"}
        if not isinstance(plain, Mapping) or not plain.keys() <= keys:
            raise ValueError(f"a part of the condition {expectation}, not {plain!r}")
        vocabulary, grid, length = (plain.get(key) for key in ("vocabulary", "grid", "length"))
        # Empty and null say that there is none
        sides = list(grid) if isinstance(grid, list | tuple) and grid else []
        features = plain.get("features") or 0
        numbers: list[Any] = [vocabulary, *(sides or [length]), features + 1]
        whole_numbers = all(type(n) is int and 1 <= n < 2**31 for n in numbers)
        if not whole_numbers or len(sides) not in (0, 2) or bool(sides) == bool(length):
            raise ValueError(f"a part of the condition {expectation}, not {dict(plain)!r}")
        return cls(numbers[0], (sides[0], sides[1]) if sides else numbers[1], features)

    @property
    def grid(self) -> tuple[int, int] | None:
        return None if isinstance(self.size, int) else self.size

    @property
    def length(self) -> int:
        """How many tokens."""
        return self.size if isinstance(self.size, int) else math.prod(self.size)


Parts = Annotated[
    list[PartShape | dict[str, int | list[int] | tuple[int, ...] | None]], Length(1, 64)
]
"""Of the shape of a condition: PartShapes, or the mappings that PartShape.of takes. Typed to the
numbers: `Any` would take a node with a target, and a file's would be built.
"""


@dataclass(frozen=True)
class Part:
    """One piece of a condition: a class, a mask's codes, a start token.

    Args:
        tokens: int64 (B, M) in [0, vocabulary]; the id `vocabulary` is the null condition, for
            guidance.
        grid: where the tokens are a raster aligned with the codes.
        permanent: it stays where the condition is dropped: the coarser level's codes.
        values: float (B, M, features), the numbers that come with the tokens, where there are some;
            zeros under the null condition.
        group: which of several conditions it is of.
    """

    tokens: Tensor
    vocabulary: int
    grid: tuple[int, int] | None = None
    permanent: bool = False
    values: Tensor | None = None
    group: int = 0

    @property
    def shape(self) -> PartShape:
        features = 0 if self.values is None else self.values.shape[-1]
        return PartShape(self.vocabulary, self.grid or self.tokens.shape[1], features)

    def to(self, device: torch.device) -> "Part":
        """The same on another device."""
        values = None if self.values is None else self.values.to(device)
        return replace(self, tokens=self.tokens.to(device), values=values)

    def rolled(self) -> "Part":
        """Each picture with the condition of the one before it in the batch."""
        values = None if self.values is None else self.values.roll(1, 0)
        return replace(self, tokens=self.tokens.roll(1, 0), values=values)

    def join(self, *others: "Part") -> "Part":
        """This part of several batches as one."""
        tokens = torch.cat([self.tokens, *(part.tokens for part in others)])
        if self.values is None:
            return replace(self, tokens=tokens)
        values = [part.values for part in (self, *others) if part.values is not None]
        return replace(self, tokens=tokens, values=torch.cat(values))

    def null(self, dropped: Tensor | None = None) -> "Part":
        """The null condition for all pictures, or for those that `dropped` (B,) bool marks."""
        if self.permanent:
            return self
        null = torch.full_like(self.tokens, self.vocabulary)
        if dropped is not None:
            null = torch.where(dropped[:, None], null, self.tokens)
        if self.values is None:
            return replace(self, tokens=null)
        nothing = (null == self.vocabulary)[..., None]
        return replace(self, tokens=null, values=self.values.masked_fill(nothing, 0.0))

    def crop(self, window: "Window", grid: tuple[int, int]) -> "Part":
        """Of a raster over a code grid of this size, the part that lies over the window."""
        assert self.grid is not None
        rows, columns = self.grid
        top, height = (n * rows // grid[0] for n in (window[0], window[2]))
        left, width = (n * columns // grid[1] for n in (window[1], window[3]))
        place = (slice(None), slice(top, top + height), slice(left, left + width))
        tokens = self.tokens.unflatten(1, (rows, columns))[place].flatten(1)
        values = self.values
        if values is not None:
            values = values.unflatten(1, (rows, columns))[place].flatten(1, 2)
        return replace(self, tokens=tokens, grid=(height, width), values=values)


Condition = tuple[Part, ...]
Window = tuple[int, int, int, int]
"""Top, left, height, width, in codes."""


class Conditioner(nn.Module):
    """A batch -> the condition of a prior."""

    key: str | None = None
    """The entry of a batch that it reads; None where there is nothing to read."""
    spatial: bool = False
    """Whether that entry is an image or a mask of the size of the picture to draw."""
    resizes: bool = False
    """Whether it brings images to a size of its own, so that they may be given smaller."""

    @property
    def tokenizer(self) -> FirstStage | None:
        """What turns the entry of the batch into codes, where it is a picture."""
        return None

    @property
    def labels(self) -> int | None:
        """How many labels the masks have that it reads, where it reads masks."""
        return None if self.tokenizer is None else self.tokenizer.labels

    @property
    def keys(self) -> tuple[str, ...]:
        """All entries that it reads."""
        return () if self.key is None else (self.key,)

    @property
    def spatial_keys(self) -> tuple[str, ...]:
        """Those of them that are as large as the picture to draw."""
        return self.keys if self.spatial else ()

    @property
    def groups(self) -> tuple[int, ...]:
        """For each part which of several conditions it is of: they are dropped, and guided by,
        apart.
        """
        return (0,)

    def prepare(self, captions: Callable[[], Sequence[str]]) -> None:
        """Learns what has to be learned from the data before training, such as a vocabulary.

        Args:
            captions: gives those of the training set.
        """

    def complete(self, batch: dict) -> dict:
        """The batch with the entry that it reads, where that follows from others: edges from the
        picture.
        """
        return batch

    def size_of(self, batch: dict) -> tuple[int, int] | None:
        """Height and width of the picture to draw, where the batch says them."""
        for key in self.spatial_keys:
            if isinstance(batch.get(key), Tensor) and batch[key].ndim > 1:
                return int(batch[key].shape[-2]), int(batch[key].shape[-1])
        return None

    @property
    def multiple(self) -> int:
        """Sides of a spatial entry are multiples of this many pixels."""
        return 1

    def forward(self, batch: dict) -> Condition:
        raise NotImplementedError(f"{type(self).__name__} makes no condition")

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        """The shape of the condition of pictures of this size (height, width)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its condition is like")

    def crop(self, condition: Condition, window: Window, grid: tuple[int, int]) -> Condition:
        """What a window of a code grid of this size sees: of rasters the part that lies over it;
        all else stays.
        """
        return tuple(part if part.grid is None else part.crop(window, grid) for part in condition)

    def picture(self, batch: dict) -> Tensor | None:
        """(B, 3, H, W) in [-1, 1]: what to draw beside the samples; None where there is nothing."""
        return None


class Decoder(Protocol):
    """What gives the logits of one code after another."""

    position: int
    """How many codes it has read."""

    def logits(self) -> Tensor:
        """(B, K) of the next code."""
        ...

    def extend(self, codes: Tensor) -> None:
        """Reads codes (B, n): the next n."""
        ...


@dataclass(frozen=True)
class PriorShape:
    """What a prior has to do with: codes, the grid trained on, and the condition."""

    num_codes: int
    grid: tuple[int, int]
    parts: tuple[PartShape, ...]


class Prior(nn.Module):
    """p(codes | condition) for one level.

    Its shape (num_codes, grid, parts) is known to the SecondStage that it becomes a part of, which
    calls `set_shape`; until then a prior has no weights. A constructor that is given all three does
    not wait.
    """

    knows_null: bool = True
    """Whether the null condition has a token, so that guidance and condition_dropout make sense."""
    alike: bool = False
    """Whether a fresh prior is told the codebook (`start_from`)."""

    def __init__(self) -> None:
        super().__init__()
        self._shape: PriorShape | None = None
        self._waiting = self.register_forward_pre_hook(_refuse_without_shape)
        self.register_load_state_dict_pre_hook(_rename_older)

    @property
    def has_shape(self) -> bool:
        return self._shape is not None

    @property
    def shape(self) -> PriorShape:
        if self._shape is None:
            raise UserError(
                f"this {type(self).__name__} has no num_codes, grid and parts yet; put it into a"
                " SecondStage with a size, or give all three to its constructor"
            )
        return self._shape

    @property
    def num_codes(self) -> int:
        return self.shape.num_codes

    @property
    def grid(self) -> tuple[int, int]:
        """Trained on; smaller grids and windows are placed by (row, column)."""
        return self.shape.grid

    @property
    def parts(self) -> tuple[PartShape, ...]:
        """The shape of the condition on that grid."""
        return self.shape.parts

    def set_shape(
        self,
        num_codes: int | None,
        grid: Sequence[int] | None,
        parts: Sequence[PartShape | Mapping[str, Any]] | None,
    ) -> None:
        """Builds the weights, once; None for all three waits on. Raises ValueError where only some
        are there, or don't fit.
        """
        if num_codes is None and grid is None and parts is None:
            return
        if num_codes is None or grid is None or parts is None:
            raise ValueError(
                "num_codes, grid and parts go together: give all three, or none, and SecondStage"
                " derives them from its size"
            )
        shapes = tuple(PartShape.of(part) for part in parts)
        self._shape = PriorShape(num_codes, (int(grid[0]), int(grid[1])), shapes)
        self._waiting.remove()
        self.build()

    def build(self) -> None:
        """Makes the weights for `shape`."""
        raise NotImplementedError(f"{type(self).__name__} has no weights")

    def start_from(self, codebook: Tensor) -> None:
        """Before a training, where `alike`: codes that stand for like vectors (K, D) start so."""

    def order(self, grid: tuple[int, int]) -> Tensor | None:
        """The raster positions (h w,) in the order they are read; None for the raster itself."""
        return None

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits (B, h, w, K), aligned: those at i see the codes read before i only."""
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def loss(self, noisy: Tensor, codes: Tensor, condition: Condition) -> Tensor:
        """What training makes small, (): cross-entropy of the codes in nats per code.

        Args:
            noisy: the codes as they are read, (B, h, w).
            codes: the codes to be predicted.
        """
        logits = self(noisy, condition)
        return F.cross_entropy(logits.flatten(0, -2).float(), codes.flatten())

    def log_prob(self, codes: Tensor, condition: Condition) -> Tensor:
        """log p(codes | condition) in nats, (B,).

        Raises:
            UserError: for codes that are no codes of this prior.
        """
        codes = check_codes(codes, self.num_codes, condition)
        logits = self(codes, condition).float().log_softmax(dim=-1)
        return logits.gather(-1, codes[..., None]).flatten(1).sum(dim=1)

    def decoding(self, fast: Fast = "off") -> AbstractContextManager:
        """What a sample is drawn in, for preparations that only last so long.

        Raises:
            UserError: for a `fast` that this prior does not know.
        """
        if fast != "off":
            raise UserError(
                f"fast {fast} is of priors that draw code after code from a cache (GPT), not of a"
                f" {type(self).__name__}; leave it off"
            )
        return nullcontext()

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> Decoder:
        return RecomputingDecoder(self, condition, grid)

    def cache_bytes(self, count: int, grid: tuple[int, int]) -> int:
        """Memory that a decoder of `count` pictures of this grid keeps of what it has read."""
        return 0


class RecomputingDecoder:
    """Code after code; recomputes everything at each step."""

    def __init__(self, prior: Prior, condition: Condition, grid: tuple[int, int]):
        self.prior, self.condition = prior, condition
        order = prior.order(grid)
        self.order = torch.arange(grid[0] * grid[1]) if order is None else order.cpu()
        tokens = condition[0].tokens
        self.codes = torch.zeros((len(tokens), *grid), dtype=torch.int64, device=tokens.device)
        self.position = 0

    def logits(self) -> Tensor:
        logits = self.prior(self.codes, self.condition).flatten(1, 2)
        return logits[:, self.order[self.position], : self.prior.num_codes]

    def extend(self, codes: Tensor) -> None:
        end = self.position + codes.shape[1]
        self.codes.flatten(1)[:, self.order[self.position : end]] = codes
        self.position = end


def check_codes(codes: Any, num_codes: int, condition: Condition) -> Tensor:
    """int64 (B, h, w) of the same numbers. Raises UserError for what are no codes below num_codes,
    or another batch than the condition's.
    """
    if not isinstance(codes, Tensor) or codes.is_floating_point() or codes.ndim != 3:
        raise UserError(f"codes should be whole numbers (B, h, w), not {describe(codes)}")
    if not condition or len(condition[0].tokens) != len(codes):
        pictures = len(condition[0].tokens) if condition else 0
        raise UserError(
            f"codes are of {len(codes)} pictures, the condition of {pictures}; make them equal"
        )
    codes = codes.long()
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < num_codes:
        worst = int(codes.max()) if int(codes.max()) >= num_codes else int(codes.min())
        raise UserError(
            f"codes reach {worst}, but this prior knows 0 to {num_codes - 1}; was it trained on"
            " another first stage?"
        )
    return codes


def describe(value: Any) -> str:
    """Kind and shape, for messages."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


OLDER_NAMES = {  # of modules, which stand in checkpoints of earlier versions
    "heard": "condition_map",
    "spread": "smooth",
    "hear": "condition",
    "hear_vertical": "condition_vertical",
    "hear_horizontal": "condition_horizontal",
    "left": "beside",
}


def current_name(name: str) -> str:
    """Of a tensor in a state dict."""
    return ".".join(OLDER_NAMES.get(word, word) for word in name.split("."))


def _rename_older(prior: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[current_name(name)] = state.pop(name)


def _refuse_without_shape(prior: nn.Module, _: Any) -> None:
    assert isinstance(prior, Prior)
    prior.shape  # noqa: B018 (raises)
