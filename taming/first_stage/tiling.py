"""Pictures that are too large for the encoder in one piece: encoded in tiles, in memory that grows
with the codes and no longer with every map of the encoder.

A tile is seen with a margin as wide as what a code sees of the picture, and only codes inside the
margin are taken, so convolutions are exact. Group normalisation and attention look at the whole
picture: one pass over the tiles for each of these layers, in the order in which they come, gathers
its statistics, or keys and values, and goes no further into the network than that layer; one more
pass gives the codes of the whole picture. Where the map of the whole picture after a step of the
encoder is small enough, it is held, and later passes go on from there. Fewer passes are no way
out: with the statistics of a reduced picture 32 % of the codes of a photograph were others
(192x256, tiles of 64, `landscapes`).
"""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from taming.attention import attend
from taming.first_stage.inputs import precise
from taming.first_stage.resnet import Attention
from taming.first_stage.steps import Steps

Codes = tuple[Tensor, ...]

FLOAT = 4  # bytes
LARGEST = 1 << 29  # bytes of one map of the encoder, up to which a picture is one piece
HELD = 1 << 30  # bytes of a map of the whole picture between two steps, of which there are two
MARGIN = 16  # codes; two blocks a scale, and the middle, see 14
POSITIONS = 1 << 16  # of attention over the whole picture
SAMPLED = 1 << 12  # keys of a larger one: every nth of the rows and columns of the whole picture
CORNER = 4  # multiples of a side, of the picture that shows which layers come when
_LOCKS: WeakKeyDictionary["Pictured", threading.RLock] = WeakKeyDictionary()
"""One large picture of a model at a time."""


class Pictured(Protocol):
    """What tiling asks of an autoencoder, see interface.py, which imports this file."""

    in_channels: int
    stride: int

    @property
    def multiple(self) -> int: ...

    def modules(self) -> Iterator[nn.Module]: ...


class Tokenizer(Pictured, Protocol):
    """And of a tokenizer."""

    @property
    def last_layer(self) -> nn.Parameter: ...

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]: ...

    def encode_piece(self, image: Any) -> Codes: ...


def map_bytes(model: Pictured, height: int, width: int) -> int:
    """Of the largest map that the encoder makes of one picture: the input, or the first
    convolution's.
    """
    encoder = getattr(model, "encoder", model)  # a quantizer may have convolutions of its own
    first = next((part for part in encoder.modules() if isinstance(part, nn.Conv2d)), None)
    widths = [model.in_channels, *([first.out_channels] if first is not None else [])]
    return FLOAT * max(widths) * height * width


def is_large(model: Pictured, image: object) -> bool:
    """Whether an image is encoded in tiles."""
    if not isinstance(image, Tensor) or image.is_nested or image.ndim < 3:
        return False
    height, width = image.shape[-2:]
    return map_bytes(model, height, width) > LARGEST


@dataclass(frozen=True)
class Tile:
    """One axis of a tile in pixels: what is seen, and, within it, what is taken."""

    start: int
    end: int
    inner: slice

    def scaled(self, length: int) -> slice:
        """`inner` on a map with `length` positions along what is seen."""
        stride = (self.end - self.start) // length
        return slice(self.inner.start // stride, self.inner.stop // stride)


def tiles(size: int, inner: int, margin: int) -> list[Tile]:
    """Tiles that take `inner` pixels each and see up to `margin` more on both sides."""
    axis = []
    for start in range(0, size, inner):
        end = min(start + inner, size)
        first = max(0, start - margin)
        axis.append(Tile(first, min(size, end + margin), slice(start - first, end - first)))
    return axis


def tile_side(model: Pictured, margin: int) -> int:
    """Pixels that a tile takes: its map with margins has a quarter of LARGEST, where that leaves
    room for twice the margin.
    """
    side = math.isqrt(LARGEST // 4 // map_bytes(model, 1, 1)) - 2 * margin
    return max(side, 2 * margin) // model.multiple * model.multiple


def _margin(model: Pictured, codes: int) -> int:
    """In pixels."""
    return -(-codes * model.stride // model.multiple) * model.multiple


def largest_bytes(model: Pictured, height: int, width: int) -> tuple[int, int]:
    """Of what is held while a picture is encoded: the largest map, of the picture or of a tile of
    it, and the maps that are held between passes.
    """
    whole = map_bytes(model, height, width)
    if whole <= LARGEST:
        return whole, 0
    margin = _margin(model, MARGIN)
    side = tile_side(model, margin) + 2 * margin
    return min(whole, map_bytes(model, side, side)), 2 * HELD


@torch.no_grad()
def encode_tiled(
    model: Tokenizer, image: Tensor, tile: int | None = None, margin: int | None = None
) -> Codes:
    """The codes of images (B, C, H, W) or labels (B, H, W), in tiles.

    Args:
        model: whose codes.
        image: sides are multiples of `model.multiple`.
        tile: pixels that one takes, a multiple of `model.multiple`; None: see `tile_side`.
        margin: codes around it that are seen too; None: MARGIN.
    """
    grids = model.grids(*image.shape[-2:])
    pixels = _margin(model, MARGIN if margin is None else margin)
    inner = tile or tile_side(model, pixels)
    rows, columns = (tiles(size, inner, pixels) for size in image.shape[-2:])
    codes = tuple(torch.empty(len(image), *grid, dtype=torch.int64) for grid in grids)
    codes = tuple(level.to(model.last_layer.device) for level in codes)
    with (
        _LOCKS.setdefault(model, threading.RLock()),
        _shared(model, (image.shape[-2], image.shape[-1])) as shared,
    ):
        corner = CORNER * model.multiple
        model.encode_piece(image[..., :corner, :corner])
        for part in [*shared.order, None]:
            if isinstance(part, _Map) and part.bytes > HELD:
                continue
            shared.gathering = part
            for shared.tile in product(rows, columns):
                row, column = shared.tile
                piece = image[..., row.start : row.end, column.start : column.end]
                with suppress(_Gathered):
                    for level, tiled in zip(codes, model.encode_piece(piece)):
                        _place(level, tiled, shared.tile)
            if part is not None:
                part.finish()
    return codes


def _place(whole: Tensor, part: Tensor, tile: tuple[Tile, Tile]) -> None:
    """Writes what the tile takes of its map (..., h, w) where it belongs."""
    places, inner = [], []
    for axis, length in zip(tile, part.shape[-2:]):
        taken = axis.scaled(length)
        start = axis.start * length // (axis.end - axis.start) + taken.start
        places.append(slice(start, start + taken.stop - taken.start))
        inner.append(taken)
    whole[..., places[0], places[1]] = part[..., inner[0], inner[1]]


class _Gathered(Exception):
    """A part of the encoder has what it wants to know of this tile."""


@dataclass
class _Shared:
    """What all tiles of a picture share.

    Args:
        size: pixels of the whole picture.
        tile: the one that is encoded at the moment; None: the corner that shows the order.
        order: of the parts that look at the whole picture, as the encoder calls them.
        gathering: the part for which this pass is made; None: the codes.
        thread: that encodes the picture; in others, the model is what it ever was.
    """

    size: tuple[int, int]
    tile: tuple[Tile, Tile] | None = None
    order: list["_Norm | _Attention | _Map"] = field(default_factory=list)
    gathering: "_Norm | _Attention | _Map | None" = None
    thread: int = field(default_factory=threading.get_ident)

    def inner(self, x: Tensor, every: int = 1) -> Tensor:
        """What the tile takes of its map (B, C, h, w); every nth row and column of the whole."""
        assert self.tile is not None
        taken = []
        for tile, length in zip(self.tile, x.shape[-2:]):
            part = tile.scaled(length)
            place = tile.start * length // (tile.end - tile.start) + part.start
            taken.append(slice(part.start + -place % every, part.stop, every))
        return x[..., taken[0], taken[1]]

    def seen(self, whole: Tensor) -> Tensor:
        """What the tile sees of a map of the whole picture."""
        assert self.tile is not None
        rows, columns = (
            slice(tile.start * length // size, tile.end * length // size)
            for tile, length, size in zip(self.tile, whole.shape[-2:], self.size)
        )
        return whole[..., rows, columns].contiguous()

    def positions(self, x: Tensor) -> int:
        """Of the whole picture, at the scale of the tile's map."""
        assert self.tile is not None
        seen = [tile.end - tile.start for tile in self.tile]
        return math.prod(self.size) * x.shape[-2] * x.shape[-1] // math.prod(seen)


Module = TypeVar("Module", bound=nn.Module)


class _Part(Generic[Module]):
    """Stands in for a module's forward while a picture is encoded in tiles."""

    def __init__(self, module: Module, shared: _Shared):
        self.module, self.shared = module, shared

    def __call__(self, x: Tensor) -> Tensor:
        if self.shared.thread != threading.get_ident():
            return type(self.module).forward(self.module, x)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has nothing to do with a map")


class _Norm(_Part[nn.GroupNorm]):
    """Group normalisation by the statistics of the whole picture, once they are gathered."""

    count, sums = 0, torch.zeros(())
    scale = shift = torch.empty(0)

    def run(self, x: Tensor) -> Tensor:
        module = self.module
        if self.shared.tile is None:
            self.shared.order.append(self)
            return torch.group_norm(x, module.num_groups, module.weight, module.bias, module.eps)
        if self.shared.gathering is self:
            inner = self.shared.inner(x).to(precise(x.device)).flatten(2)
            groups = inner.reshape(len(x), module.num_groups, -1)
            sums = torch.stack([groups.sum(dim=2), groups.square().sum(dim=2)])
            self.count, self.sums = self.count + groups.shape[2], self.sums.to(sums) + sums
            raise _Gathered
        return (x.float() * self.scale + self.shift).to(x.dtype)

    def finish(self) -> None:
        mean, square = self.sums / self.count
        spread = (square - mean.square()).clamp(min=0).add(self.module.eps).rsqrt()
        each = self.module.num_channels // self.module.num_groups
        mean, spread = (part.repeat_interleave(each, dim=1).float() for part in (mean, spread))
        scale = spread * self.module.weight
        self.shift = (self.module.bias - mean * scale)[:, :, None, None]
        self.scale = scale[:, :, None, None]


class _Attention(_Part[Attention]):
    """Attention to the keys and values of the whole picture, once they are gathered; of a very
    large one to a sample of them.
    """

    def __init__(self, module: Attention, shared: _Shared):
        super().__init__(module, shared)
        self.pieces: list[tuple[Tensor, Tensor]] = []
        self.whole: tuple[Tensor, Tensor] = torch.empty(0), torch.empty(0)

    def run(self, x: Tensor) -> Tensor:
        module, shared = self.module, self.shared
        h = module.norm(x)
        if shared.gathering is self:
            positions = shared.positions(x)
            every = math.ceil(math.sqrt(positions / SAMPLED)) if positions > POSITIONS else 1
            seen = shared.inner(h, every)
            self.pieces.append((_positions(module.k(seen)), _positions(module.v(seen))))
            raise _Gathered
        query = _positions(module.q(h))
        if shared.tile is None:
            shared.order.append(self)
            key, value = _positions(module.k(h)), _positions(module.v(h))
        else:
            key, value = self.whole
        back = attend(query, key, value)[:, 0].transpose(1, 2)
        return x + module.proj_out(back.reshape(x.shape).contiguous())

    def finish(self) -> None:
        keys, values = zip(*self.pieces)
        self.whole = torch.cat(keys, dim=2), torch.cat(values, dim=2)


class _Encoder(_Part[Steps]):
    """The encoder, which goes on from the map that was held last, whatever it is given."""

    done, held = 0, torch.empty(0)  # steps, and the map of the whole picture after them

    def run(self, x: Tensor) -> Tensor:
        shared, height = self.shared, x.shape[-2]
        if self.done:
            x = shared.seen(self.held)
        for number, step in enumerate(self.module.steps()[self.done :], start=self.done + 1):
            before, x = x, step(x)
            if shared.tile is None and x is not before:
                stride = height // x.shape[-2]
                shape = (*x.shape[:2], *(side // stride for side in shared.size))
                shared.order.append(_Map(self, number, shape))
            elif isinstance(shared.gathering, _Map) and shared.gathering.steps == number:
                shared.gathering.add(x)
                raise _Gathered
        return x


class _Map:
    """The map (B, C, h, w) of the whole picture after some of the encoder's steps."""

    def __init__(self, encoder: _Encoder, steps: int, shape: Sequence[int]):
        self.encoder, self.steps, self.shape = encoder, steps, shape
        self.whole = torch.empty(0)

    @property
    def bytes(self) -> int:
        """Of one picture."""
        return FLOAT * math.prod(self.shape[1:])

    def add(self, x: Tensor) -> None:
        if not self.whole.numel():
            self.whole = x.new_empty(self.shape)
        assert self.encoder.shared.tile is not None
        _place(self.whole, x, self.encoder.shared.tile)

    def finish(self) -> None:
        self.encoder.done, self.encoder.held = self.steps, self.whole
        self.whole = torch.empty(0)


def _positions(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1, h w, C), contiguous as attention wants it."""
    return x.flatten(2).transpose(1, 2)[:, None].contiguous()


@contextmanager
def _shared(model: Pictured, size: tuple[int, int]) -> Iterator[_Shared]:
    """While within, the model's layers that look at the whole picture share what they see."""
    shared, replaced = _Shared(size), []
    if any(isinstance(module.__dict__.get("forward"), _Part) for module in model.modules()):
        raise RuntimeError("a large picture is encoded within another, by the same model")
    try:
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                module.__dict__["forward"] = _Norm(module, shared)
            elif isinstance(module, Attention):
                module.__dict__["forward"] = _Attention(module, shared)
            elif isinstance(module, Steps) and module is getattr(model, "encoder", None):
                module.__dict__["forward"] = _Encoder(module, shared)
            else:
                continue
            replaced.append(module)
        yield shared
    finally:
        for module in replaced:
            del module.__dict__["forward"]
        shared.order.clear()  # parts and what they share refer to each other
        shared.gathering = None
