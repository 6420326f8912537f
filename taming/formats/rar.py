"""RAR's class-conditional priors (Yu et al. 2024, arXiv 2411.00776): a Transformer whose blocks are
scaled and shifted by the class (adaptive layer norms), and which knows where the next code lies;
over the codes of MaskGIT's tokenizer, which lies beside it.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from taming.config.ranges import Decay
from taming.errors import UserError
from taming.formats import maskgit
from taming.formats.class_prior import class_prior_content, file_beside, read_tokenizer
from taming.formats.content import Content
from taming.formats.source import Source
from taming.second_stage.block import Block, BlockOptions, LayerCache, initialise
from taming.second_stage.interface import (
    Condition,
    Decoder,
    Depth,
    Grid,
    NumCodes,
    Parts,
    Prior,
    Width,
)

__all__ = ["RARGPT"]

NAME = "RAR"
READS_CARD = False
TOKENIZERS = ("maskgit-vqgan-imagenet-f16-256.bin", "maskgit-vqgan-imagenet-f16-256.safetensors")
MARKS = ("target_aware_pos_embed", "timesteps_embeddings", "lm_head.weight")
SPARE_STEPS = 100  # of its table of steps, which are never reached
STRIDE = 16  # of the tokenizer
EPSILON = 1e-6
LAYERS = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "attn.q_norm": "attn.norm_q",
    "attn.k_norm": "attn.norm_k",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "adaLN_modulation.1": "modulation",
}
OTHERS = {
    "embeddings.weight": "tok_emb.weight",
    "cls_token": "start",
    "pos_embed": "pos_emb",
    "target_aware_pos_embed": "target_emb",
    "timesteps_embeddings": "step_emb",
    "adaln_before_head.adaLN_modulation.1.weight": "modulation.weight",
    "adaln_before_head.adaLN_modulation.1.bias": "modulation.bias",
    "lm_head.weight": "head.weight",
    "lm_head.bias": "head.bias",
}


class AdaptiveBlock(Block):
    """A block whose branches a vector shifts, scales and gates at each place."""

    def __init__(self, width: int, heads: int, dropout: float, hidden: int):
        super().__init__(width, heads, dropout, BlockOptions(qk_norm=True), hidden)
        self.ln1, self.ln2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        head = width // heads
        self.attn.norm_q, self.attn.norm_k = (
            nn.LayerNorm(head, EPSILON),
            nn.LayerNorm(head, EPSILON),
        )
        self.modulation = nn.Linear(width, 6 * width)

    def modulated(self, x: Tensor, vector: Tensor, cache: LayerCache | None) -> Tensor:
        """x and vector (B, T, width)."""
        parts = self.modulation(nn.functional.silu(vector)).chunk(6, dim=-1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        x = x + gate * self.attn(self.ln1(x) * (1 + scale) + shift, cache)
        return x + gate_mlp * self.mlp(self.ln2(x) * (1 + scale_mlp) + shift_mlp)


class RARGPT(Prior):
    """Reads a start token, the class, then the codes in raster order. To each is added where it
    lies, and where the code that comes next does; the class and the number of the step modulate
    every block.

    Args:
        layers: blocks of attention and MLP.
        heads: of each attention; they divide the width.
        width: of the vectors at each place.
        hidden: between the layers of the MLP; default: 4 x width.
        dropout: of the residual branches.
        num_codes: K, of the level that it is the prior of.
        grid: height and width of the code grid trained on.
        parts: the shape of the condition: one token, the class.
    """

    def __init__(
        self,
        layers: Depth,
        heads: Depth,
        width: Width,
        hidden: Width | None = None,
        dropout: Decay = 0.0,
        *,
        num_codes: NumCodes | None = None,
        grid: Grid | None = None,
        parts: Parts | None = None,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.layers, self.heads, self.width = layers, heads, width
        self.hidden, self.dropout = hidden or 4 * width, dropout
        self.set_shape(num_codes, grid, parts)

    def build(self) -> None:
        if len(self.parts) != 1 or self.parts[0].size != 1:
            raise ValueError("its condition is one class: give parts [{vocabulary: V, length: 1}]")
        count, width = math.prod(self.grid), self.width
        # Codes, a mask that only training used, classes, and the null class
        self.tok_emb = nn.Embedding(self.num_codes + 1 + self.parts[0].vocabulary + 1, width)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_emb = nn.Parameter(0.02 * torch.randn(1, 2 + count, width))
        self.target_emb = nn.Parameter(0.02 * torch.randn(1, 2 + count, width))
        self.step_emb = nn.Parameter(0.02 * torch.randn(1, 1 + count, width))
        blocks = (
            AdaptiveBlock(width, self.heads, self.dropout, self.hidden) for _ in range(self.layers)
        )
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, EPSILON, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, self.num_codes)
        self.apply(initialise)

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        grid = (codes.shape[1], codes.shape[2])
        x, vector = self.embed(codes.flatten(1)[:, :-1], condition, grid)
        for block in self.blocks:
            assert isinstance(block, AdaptiveBlock)
            x = block.modulated(x, vector, None)
        return self.logits_of(x[:, 1:], vector[:, 1:]).unflatten(1, grid)

    def embed(
        self, codes: Tensor, condition: Condition, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """What is read, (B, 2 + n, width) of the first n codes (B, n), and what modulates it."""
        if len(condition) != 1 or condition[0].shape != self.parts[0]:
            raise UserError(
                f"the condition has {[part.shape for part in condition]}, but this prior knows one"
                f" of {self.parts[0].vocabulary} classes; was it trained with another conditioner?"
            )
        label = self.tok_emb(condition[0].tokens + self.num_codes + 1)
        x = torch.cat([self.start.expand(len(label), -1, -1), label, self.tok_emb(codes)], dim=1)
        length, places = x.shape[1], self.places(grid)
        x = x + torch.cat([self.pos_emb[:, :2], self.pos_emb[:, 2 + places]], dim=1)[:, :length]
        targets = self.target_emb[:, 2 + places[: length - 1]]
        x = x + nn.functional.pad(targets, (0, 0, 1, length - 1 - targets.shape[1]))
        return x, label + self.step_emb[:, :length]

    def logits_of(self, x: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.modulation(nn.functional.silu(vector)).chunk(2, dim=-1)
        return self.head(self.norm(x) * (1 + scale) + shift)

    def places(self, grid: tuple[int, int]) -> Tensor:
        """(h w,) of the codes of a grid in that trained on, in whose upper left corner it lies."""
        if grid[0] > self.grid[0] or grid[1] > self.grid[1]:
            raise UserError(
                f"a grid of {grid[0]}x{grid[1]} codes is larger than the"
                f" {self.grid[0]}x{self.grid[1]} that this prior was trained on"
            )
        rows, columns = (torch.arange(side, device=self.pos_emb.device) for side in grid)
        return (rows[:, None] * self.grid[1] + columns).flatten()

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> Decoder:
        return CachedDecoder(self, condition, grid)

    def cache_bytes(self, count: int, grid: tuple[int, int]) -> int:
        """Keys and values of every block, float32."""
        return 8 * self.layers * self.width * (2 + math.prod(grid)) * count


class CachedDecoder:
    """Code after code; what was read is kept as keys and values."""

    def __init__(self, prior: RARGPT, condition: Condition, grid: tuple[int, int]):
        self.prior, self.condition, self.grid = prior, condition, grid
        tokens = condition[0].tokens
        self.codes = tokens.new_zeros(len(tokens), 0)
        shape = (len(tokens), prior.heads, 1 + math.prod(grid), prior.width // prior.heads)
        self.caches = [LayerCache(shape, prior.start) for _ in prior.blocks]
        self.position = 0

    @torch.no_grad()
    def logits(self) -> Tensor:
        x, vector = self.prior.embed(self.codes, self.condition, self.grid)
        start = self.caches[0].filled
        if start < x.shape[1]:
            x, vector = x[:, start:], vector[:, start:]
            for block, cache in zip(self.prior.blocks, self.caches):
                assert isinstance(block, AdaptiveBlock)
                x = block.modulated(x, vector, cache)
            self.next = self.prior.logits_of(x[:, -1], vector[:, -1])
        return self.next

    def extend(self, codes: Tensor) -> None:
        self.codes = torch.cat([self.codes, codes], dim=1)
        self.position = self.codes.shape[1]


def recognises(source: Source) -> bool:
    return source.has(*MARKS)


def read(source: Source, allow: Iterable[str] = ()) -> Content:
    """A prior with the tokenizer beside it, as a second stage.

    Raises:
        UserError: its tokenizer is not there, or a tensor is missing that tells the architecture.
    """
    path, state = source.path, source.weights
    # 1. the tokenizer, then the architecture, which tensors tell
    first = read_tokenizer(path, NAME, TOKENIZERS, maskgit, allow)
    params = _prior_params(state, path)
    # 2. its tensors by our names; tables of positions are longer than any picture
    tensors, unknown, count = {}, [], math.prod(params["grid"])
    for name, tensor in state.items():
        ours = _our_name(name)
        if ours is None:
            unknown.append(name)
            continue
        if ours in ("pos_emb", "target_emb", "step_emb") and tensor.ndim == 3:
            tensor = tensor[:, : count + (1 if ours == "step_emb" else 2)]
        tensors[ours] = tensor
    # 3. both as one second stage
    target = f"{__name__}.RARGPT"
    return class_prior_content(
        source, NAME, first, target, params, tensors, unknown, STRIDE, TOKENIZERS, allow
    )


def _prior_params(state: dict[str, Tensor], path: Path) -> dict:
    """The architecture, which its tensors tell.

    Raises:
        UserError: one of them is missing, or of another shape than all have.
    """
    tables = ("lm_head.weight", "embeddings.weight", "blocks.0.mlp.fc1.weight")
    for name, sides in (*((name, 2) for name in tables), ("timesteps_embeddings", 3)):
        if name not in state or state[name].ndim != sides:
            raise UserError(f"'{path}' lacks '{name}'; is it whole? download it again")
    norm = state.get("blocks.0.attn.q_norm.weight")
    num_codes, width = state["lm_head.weight"].shape
    classes = len(state["embeddings.weight"]) - num_codes - 2
    count = state["timesteps_embeddings"].shape[1] - SPARE_STEPS
    side = math.isqrt(max(0, count))
    if (
        norm is None
        or norm.ndim != 1
        or not len(norm)
        or width % len(norm)
        or classes < 1
        or side < 1
    ):
        raise UserError(f"'{path}' is no prior of RAR as published; is it whole? download it again")
    return {
        "layers": 1 + max(_layer(name) for name in state),
        "heads": width // len(norm),
        "width": width,
        "hidden": len(state["blocks.0.mlp.fc1.weight"]),
        "num_codes": num_codes,
        "grid": [side, side],
        "parts": [{"vocabulary": classes, "length": 1}],
    }


def tokenizer_of(path: Path) -> Path | None:
    """The tokenizer beside a prior."""
    return file_beside(path, TOKENIZERS)


def _layer(name: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _our_name(name: str) -> str | None:
    """A published tensor by our name; None for what no published prior has."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if match and match[2] in LAYERS:
        return f"blocks.{match[1]}.{LAYERS[match[2]]}.{match[3]}"
    return OTHERS.get(name)
