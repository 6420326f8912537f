"""The Transformer block that all attention priors share, with switches: norms, positions in the
attention, and the MLP. The defaults are GPT-2's (Radford et al. 2019).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.attention import attend
from taming.config.ranges import Range
from taming.config.sampling import Fast
from taming.errors import UserError, did_you_mean
from taming.products import MANY, linear


@dataclass(frozen=True)
class BlockOptions:
    """What a block is made of.

    Args:
        norm: layer normalization, or by the root mean square alone (Zhang and Sennrich 2019, arXiv
            1910.07467).
        mlp: gelu; relu2, the square of ReLU (So et al. 2021, arXiv 2109.08668); swiglu, gated, with
            two thirds of the hidden width (Shazeer 2020, arXiv 2002.05202).
        qk_norm: queries and keys of each head are normalized before they meet (Henry et al. 2020,
            arXiv 2010.04245).
        rotary: queries and keys are turned by angles that follow row and column (Su et al. 2021,
            arXiv 2104.09864; in two dimensions, Heo et al. 2024, arXiv 2403.13298).
        rotary_base: the longest wavelength is about 2 pi times so many codes.
        zero_init: the last layer of attention and MLP starts from zero, so that a block begins as
            the identity.
        bias: of the linear layers.
    """

    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "relu2", "swiglu"] = "gelu"
    qk_norm: bool = False
    rotary: bool = False
    rotary_base: Annotated[float, Range(1, 1e6, low_open=True)] = 100.0
    zero_init: bool = False
    bias: bool = True

    @classmethod
    def of(cls, value: "BlockOptions | Mapping[str, str | bool | float] | None") -> "BlockOptions":
        """Of a mapping of some of them. Raises UserError for a key that is none of them."""
        if isinstance(value, BlockOptions):
            return value
        for key in value or {}:
            if key not in cls.__dataclass_fields__:
                names = list(cls.__dataclass_fields__)
                raise UserError(f"block.{key}: unknown key{did_you_mean(key, names)}")
        return cls(**dict(value or {}))  # type: ignore[arg-type]


BlockParameters = BlockOptions | dict[str, str | bool | float] | None
"""As a configuration has them."""
ALONE = 0.25  # of the standard deviation of a code's row at the start: nothing but its own
MODERN = BlockOptions("rms", "relu2", qk_norm=True, rotary=True, zero_init=True, bias=False)
"""The choice of public code for short trainings (modded-nanogpt); not compared here switch by
switch.
"""


class Linear(nn.Linear):
    """A linear layer that, while packed, multiplies in oneDNN's own layout: on CPUs a step of
    decoding is bound by reading the weights, and so it reads them up to 1.7 times as fast
    (docs/sampling.md).
    """

    packed: Tensor | None = None
    scales: Tensor | None = None  # of the rows of 8 bits

    def pack(self, fast: Fast = "off") -> None:
        """fast: weights rounded to 16 bits, or to 8 and a scale for each row; float32 sums."""
        if (
            self.weight.device.type != "cpu"
            or self.weight.dtype != torch.float32
            or not torch.backends.mkldnn.is_available()
        ):
            return
        weight = self.weight.detach()
        if fast == "int8":
            largest = torch.linalg.vector_norm(weight, torch.inf, dim=1).clamp(min=1e-12)
            scales = (largest / 126.4).bfloat16()  # 127 even where bfloat16 rounds it down
            self.packed, self.scales = (weight / scales.float()[:, None]).round_().char(), scales
            return
        rounded = weight.bfloat16() if fast == "bf16" else weight
        try:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(rounded, None)
        except RuntimeError:  # a CPU without AVX-512: the same numbers, as fast as in full
            self.packed = torch.ops.mkldnn._reorder_linear_weight(rounded.float(), None)

    def unpack(self) -> None:
        for name in ("packed", "scales"):
            vars(self).pop(name, None)

    def forward(self, input: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled(input.device.type)
        if self.packed is None or input.dtype != torch.float32 or autocast:
            return linear(input, self.weight, self.bias)
        if self.packed.dtype != torch.float32 and input.numel() > MANY * self.in_features:
            return linear(input, self.weight, self.bias)  # bound by products, not by reading
        return self.packed_product(input)

    def packed_product(self, input: Tensor, after: str = "none") -> Tensor:
        """input W + b by the packed weight, and what oneDNN does with it at once: none, relu."""
        assert self.packed is not None
        if self.packed.dtype == torch.float32:
            one_row = input.numel() == self.in_features >= self.out_features
            if one_row and _plain_rows_are_faster():
                out = F.linear(input, self.weight, self.bias)
                return out.relu_() if after == "relu" else out
            return _PACKED(input, self.packed, self.bias, after, [], "")
        if self.scales is None:
            out = _PACKED(input.bfloat16(), self.packed, None, "none", [], "").float()
        else:
            rows = input.flatten(0, -2).bfloat16()
            out = torch._weight_int8pack_mm(rows, self.packed, self.scales).float()
            out = out.view(*input.shape[:-1], -1)
        if self.bias is not None:
            out += self.bias
        return out.relu_() if after == "relu" else out


_PACKED = torch.ops.mkldnn._linear_pointwise.default


@cache
def _plain_rows_are_faster() -> bool:
    """For one token and a layer that does not widen: by 1.1 to 1.5 times on CPUs without AVX-512
    (docs/sampling.md).
    """
    return not torch.cpu.get_capabilities().get("avx512_f", True)


class LayerCache:
    """Keys and values of one layer, (B, heads, T, d), allocated once and filled from the left."""

    visible: Tensor | None = None  # what a single token sees of them, where that is not all

    def __init__(self, shape: tuple[int, ...], like: Tensor):
        # Zeros, since what is hidden is multiplied by 0, which NaN survives
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.filled = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.filled + k.shape[2]
        self.keys[:, :, self.filled : end], self.values[:, :, self.filled : end] = k, v
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def extend_by_one(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (B, heads, d) of one token."""
        place = self.filled
        self.keys[:, :, place], self.values[:, :, place] = k, v
        self.filled = place + 1
        return self.keys[:, :, : place + 1], self.values[:, :, : place + 1]


class SelfAttention(nn.Module):
    """Causal, but that the first `unmasked` tokens see each other; or all see all."""

    attention_dropout, unmasked = 0.0, 0  # of published models
    causal = True

    def __init__(self, width: int, heads: int, dropout: float, options: BlockOptions | None = None):
        super().__init__()
        options = options or BlockOptions()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=options.bias)
        self.proj = Linear(width, width, bias=options.bias)
        self.dropout = nn.Dropout(dropout)
        if options.qk_norm:
            self.norm_q, self.norm_k = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)

    def forward(
        self, x: Tensor, cache: LayerCache | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """x (B, T, width); rotation (T, d / 2, 2), see `rotation_of`."""
        # (B, T, three heads d) -> three (B, heads, T, d)
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(self, "norm_q"):
            # In the weights' precision: autocast leaves norms alone
            full = self.norm_q.weight.dtype
            q, k = self.norm_q(q.to(full)).to(v), self.norm_k(k.to(full)).to(v)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            k, v = cache.extend(k, v)
        new, before = q.shape[2], k.shape[2] - q.shape[2]
        dropped = self.attention_dropout if self.training else 0.0
        if self.causal and new > 1 and before:
            visible = torch.ones(new, before + new, dtype=torch.bool, device=x.device).tril(before)
            out = attend(q, k, v, visible, dropped)
        else:
            causal, visible = self.causal and new > 1, None if cache is None else cache.visible
            out = attend(q, k, v, visible, dropped, causal, self.unmasked)
        return self.dropout(self.proj(out.transpose(1, 2).flatten(2)))

    packed: Tensor | None = None

    def pack(self, fast: Fast = "off") -> None:
        """The weights of both norms together, (2, 1, d)."""
        if hasattr(self, "norm_q"):
            self.packed = torch.stack([self.norm_q.weight, self.norm_k.weight]).detach()[:, None]

    def unpack(self) -> None:
        vars(self).pop("packed", None)

    def step(self, x: Tensor, cache: LayerCache, turn: Tensor | None) -> Tensor:
        """As `forward` does, to the bit, for the one token x (B, 1, width) that comes next, with
        packed weights and fewer operations: queries and keys are normalized and turned together.

        Args:
            turn: (2, d) of `turns_of`, at its place.
        """
        qk, v = self.qkv.packed_product(x).view(len(x), 3, self.heads, -1).split((2, 1), dim=1)
        if self.packed is not None:
            qk = torch.rms_norm(qk, qk.shape[-1:]) * self.packed
        if turn is not None:
            mirrored = qk.reshape(*qk.shape[:-1], -1, 2).flip(-1).view(qk.shape)
            qk = qk * turn[0] + mirrored * turn[1]
        k, v = cache.extend_by_one(qk[:, 1], v[:, 0])
        out = F.scaled_dot_product_attention(qk[:, 0, :, None], k, v)
        return self.proj.packed_product(out.view(x.shape))


class SquaredReLU(nn.Module):
    """Where no gradient is wanted, x is overwritten: it is what a linear layer just made, and new
    memory for so large a map costs more than the arithmetic.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square() if torch.is_grad_enabled() else x.relu_().square_()


class SwiGLU(nn.Module):
    """proj(silu(gate(x)) * up(x))"""

    def __init__(self, width: int, hidden: int, dropout: float, bias: bool):
        super().__init__()
        self.gate, self.up = Linear(width, hidden, bias), Linear(width, hidden, bias)
        self.proj, self.dropout = Linear(hidden, width, bias), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.proj(F.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    """Pre-norm; x + attention, x + MLP.

    Args:
        width: of the vectors at each place.
        heads: of the attention; they divide the width.
        dropout: of the residual branches.
        options: what it is made of.
        hidden: width between the layers of the MLP; by default 4 x width, for swiglu 8/3 of it.
        causal: whether tokens see only those before them.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        options: BlockOptions | None = None,
        hidden: int | None = None,
        causal: bool = True,
    ):
        super().__init__()
        options = options or BlockOptions()
        self.ln1, self.ln2 = make_norm(width, options), make_norm(width, options)
        self.attn = SelfAttention(width, heads, dropout, options)
        self.attn.causal = causal
        self.mlp = make_mlp(width, hidden, dropout, options)

    def forward(
        self, x: Tensor, cache: LayerCache | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        x = x + self.attn(self.ln1(x), cache, rotation)
        return x + self.mlp(self.ln2(x))

    @property
    def can_step(self) -> bool:
        """Whether its weights are packed, and it is made of what `step` knows."""
        if self.training or isinstance(self.mlp, SwiGLU):
            return False
        layers = (self.attn.qkv, self.attn.proj, self.mlp[0], self.mlp[2])
        return all(isinstance(one, Linear) and one.packed is not None for one in layers)

    def step(self, x: Tensor, cache: LayerCache, turn: Tensor | None = None) -> Tensor:
        """As `forward` does for one more token, see `SelfAttention.step`."""
        x = x + self.attn.step(normalized(self.ln1, x), cache, turn)
        assert isinstance(self.mlp, nn.Sequential)
        first, activation, last = self.mlp[0], self.mlp[1], self.mlp[2]
        assert isinstance(first, Linear) and isinstance(last, Linear)
        h = normalized(self.ln2, x)
        if isinstance(activation, SquaredReLU):
            h = first.packed_product(h, "relu").square_()
        else:
            h = F.gelu(first.packed_product(h))
        return x + last.packed_product(h)

    def start_from_zero(self) -> None:
        """Makes the block the identity; training moves it away from that."""
        last: nn.Module = self.mlp.proj if isinstance(self.mlp, SwiGLU) else self.mlp[2]
        for layer in (self.attn.proj, last):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


def make_norm(width: int, options: BlockOptions) -> nn.Module:
    return nn.RMSNorm(width) if options.norm == "rms" else nn.LayerNorm(width)


def normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """norm(x), past what calling a module costs."""
    if isinstance(norm, nn.RMSNorm):
        return torch.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps)
    return norm(x)


def make_mlp(
    width: int, hidden: int | None, dropout: float, options: BlockOptions
) -> SwiGLU | nn.Sequential:
    if options.mlp == "swiglu":
        return SwiGLU(width, hidden or -(-8 * width // 24) * 8, dropout, options.bias)
    hidden = hidden or 4 * width
    activation = SquaredReLU() if options.mlp == "relu2" else nn.GELU()
    return nn.Sequential(
        Linear(width, hidden, options.bias),
        activation,
        Linear(hidden, width, options.bias),
        nn.Dropout(dropout),
    )


def rotation_of(places: Tensor, dim: int, base: float) -> Tensor:
    """Cosine and sine (T, dim / 2, 2) of the angles by which the pairs of a head of `dim` numbers
    are turned.

    Args:
        places: float (T, 2), row and column; one half of the pairs follows each.
        dim: of a head, a multiple of 4.
        base: wavelengths grow geometrically from 2 pi to about 2 pi `base`.
    """
    frequencies = base ** (-torch.arange(0, dim // 2, 2, device=places.device) / (dim // 2))
    angles = (places.float()[:, :, None] * frequencies).flatten(1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """x (B, heads, T, d), its neighbouring numbers taken as points in the plane, turned."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rotation.to(x).unbind(-1)
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(-2)


def turns_of(rotation: Tensor) -> Tensor:
    """(T, 2, d) of a rotation (T, d / 2, 2): x turned is x turns[0] + mirrored x turns[1], where
    the mirrored x has the numbers of each pair changed about.
    """
    cosine, sine = rotation.unbind(-1)
    pairs = torch.stack([cosine, cosine], dim=-1), torch.stack([-sine, sine], dim=-1)
    return torch.stack([pair.flatten(1) for pair in pairs], dim=1)


def places_of(grid: tuple[int, int], over: tuple[int, int] | None = None) -> Tensor:
    """(h w, 2) row and column of a raster, in units of another one over the same picture (its own
    by default): the middle of a coarse token lies in the middle of the codes under it.
    """
    over = over or grid
    rows, columns = ((torch.arange(n) + 0.5) * (m / n) - 0.5 for n, m in zip(grid, over))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


@torch.no_grad()
def start_alike(table: nn.Embedding | nn.Linear, codebook: Tensor, seed: int) -> None:
    """Fills the first rows of a table of codes with a random linear map of their vectors, so that
    what is learned of one code holds for those that look like it; a part stays the code's own.

    Args:
        table: (K or more, width), as `initialise` leaves it.
        codebook: (K, D).
        seed: of the map.
    """
    vectors = codebook.float() - codebook.float().mean(dim=0)
    vectors = vectors / vectors.square().mean().sqrt().clamp(min=1e-6)
    generator = torch.Generator(vectors.device).manual_seed(seed)
    width, dim = table.weight.shape[1], vectors.shape[1]
    random = torch.randn(dim, width, generator=generator, device=vectors.device) / dim**0.5
    rows = table.weight[: len(vectors)]
    rows.copy_((1 - ALONE**2) ** 0.5 * 0.02 * (vectors @ random).to(rows) + ALONE * rows)


def initialise(layer: nn.Module) -> None:
    """N(0, 0.02) for matrices and tables, zero biases, as GPT-2."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=0.02)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
