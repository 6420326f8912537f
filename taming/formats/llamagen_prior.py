"""LlamaGen's class-conditional priors (Sun et al. 2024, arXiv 2406.06525): a Transformer as Llama's
over the codes of its tokenizer, which lies beside it.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from taming.config.ranges import Decay
from taming.errors import UserError
from taming.formats import llamagen
from taming.formats.class_prior import class_prior_content, file_beside, read_tokenizer
from taming.formats.content import Content
from taming.formats.source import Source
from taming.second_stage.block import Block, BlockOptions, places_of, rotation_of
from taming.second_stage.gpt import GPT
from taming.second_stage.interface import Condition, Depth, Grid, NumCodes, Parts, Width

__all__ = ["LlamaGenGPT"]

NAME = "LlamaGen"
READS_CARD = False
CLASSES, TEXT = "cls_embedding.embedding_table.weight", "cls_embedding.cap_proj.fc1.weight"
# No tensor tells the heads: all class-conditional ones have 64 numbers, but for the two largest
HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32, 4096: 32}
GRIDS = {"256": 16, "384": 24}  # nor the size: it stands in the name, as c2i_B_256.pt
STRIDE = 16  # of the tokenizer
TOKENIZERS = ("vq_ds16_c2i.pt", "vq_ds16_c2i.safetensors")
LAYERS = {
    "attention.wqkv": "attn.qkv",
    "attention.wo": "attn.proj",
    "feed_forward.w1": "mlp.gate",
    "feed_forward.w3": "mlp.up",
    "feed_forward.w2": "mlp.proj",
    "attention_norm": "ln1",
    "ffn_norm": "ln2",
}
OTHERS = {
    "tok_embeddings.weight": "tok_emb.weight",
    CLASSES: "cond_emb.weight",
    "norm.weight": "ln_f.weight",
    "output.weight": "head.weight",
}
OPTIONS = BlockOptions("rms", "swiglu", rotary=True, rotary_base=10_000.0, bias=False)
EPSILON = 1e-5


class LlamaGenGPT(GPT):
    """A GPT of RMS norms, gated MLPs and rotary positions, whose condition has no position: its
    queries and keys are zero, as published.

    Args:
        layers: blocks of attention and MLP.
        heads: of each attention; they divide the width.
        width: of the vectors at each place.
        dropout: of embeddings and of the residual branches.
        num_codes: K, of the level that it is the prior of.
        grid: height and width of the code grid trained on.
        parts: the shape of the condition, see GPT.
    """

    def __init__(
        self,
        layers: Depth,
        heads: Depth,
        width: Width,
        dropout: Decay = 0.0,
        *,
        num_codes: NumCodes | None = None,
        grid: Grid | None = None,
        parts: Parts | None = None,
    ):
        super().__init__(layers, heads, width, dropout, block=vars(OPTIONS).copy())
        self.set_shape(num_codes, grid, parts)

    def build(self) -> None:
        super().build()
        self.ln_f = nn.RMSNorm(self.width, EPSILON)

    def start_positions(self) -> None:
        """They are zeros already: rotations say where a code is."""

    def make_block(self) -> Block:
        hidden = -(-int(8 * self.width / 3) // 256) * 256
        block = Block(self.width, self.heads, self.dropout, self.block_options, hidden)
        block.ln1, block.ln2 = nn.RMSNorm(self.width, EPSILON), nn.RMSNorm(self.width, EPSILON)
        return block

    def rotation(
        self, condition: Condition, grid: tuple[int, int], order: Tensor | None
    ) -> Tensor | None:
        dim = self.width // self.heads
        length = sum(part.tokens.shape[1] for part in condition)
        nowhere = torch.zeros(length, dim // 2, 2)
        codes = places_of(grid)
        turned = rotation_of(codes if order is None else codes[order.cpu()], dim, 10_000.0)
        return torch.cat([nowhere, turned])[:-1].to(self.pos_emb.device)


def recognises(source: Source) -> bool:
    return source.has("tok_embeddings.weight", "layers.0.attention.wqkv.weight")


def read(source: Source, allow: Iterable[str] = ()) -> Content:
    """A prior with the tokenizer beside it, as a second stage.

    Raises:
        UserError: it is conditioned on text, its size or its tokenizer is not known, or a tensor is
            missing that tells the architecture.
    """
    # 1. what is not supported, or not whole
    path, state = source.path, source.weights
    if TEXT in state:
        raise UserError(
            f"'{path}' is conditioned on features of text (T5), which no conditioner here reads;"
            " LlamaGen's class-conditional priors (c2i) are supported"
        )
    if CLASSES not in state or state[CLASSES].ndim != 2:
        raise UserError(f"'{path}' lacks '{CLASSES}'; is it whole? download it again")
    # 2. the tokenizer, then the architecture: what tensors tell, and the name of the file
    first = read_tokenizer(path, NAME, TOKENIZERS, llamagen, allow)
    classes, width = len(state[CLASSES]) - 1, state[CLASSES].shape[1]
    if width not in HEADS:
        raise UserError(f"'{path}' is {width} wide; LlamaGen's are {', '.join(map(str, HEADS))}")
    side = _grid_side(path)
    layers = 1 + max(_layer(name) for name in state)
    params = {"layers": layers, "heads": HEADS[width], "width": width}
    params |= {"num_codes": first.config["model"]["params"]["quantizer"]["params"]["num_codes"]}
    params |= {"grid": [side, side], "parts": [{"vocabulary": classes, "length": 1}]}
    # 3. its tensors by our names, and both as one second stage
    tensors: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        ours = _our_name(name)
        if ours is None:
            unknown.append(name)
        else:
            tensors[ours] = tensor
    tensors["pos_emb"] = torch.zeros(1, side * side + 1, width)
    target = f"{__name__}.LlamaGenGPT"
    return class_prior_content(
        source, NAME, first, target, params, tensors, unknown, STRIDE, TOKENIZERS, allow
    )


def tokenizer_of(path: Path) -> Path | None:
    """The tokenizer beside a prior."""
    return file_beside(path, TOKENIZERS)


def _grid_side(path: Path) -> int:
    side = next((side for size, side in GRIDS.items() if size in path.stem), None)
    if side is None:
        raise UserError(
            f"'{path}': no tensor tells the size that it was trained on; name the file as LlamaGen"
            f" does, with {' or '.join(GRIDS)} in it (c2i_B_256.pt)"
        )
    return side


def _layer(name: str) -> int:
    match = re.match(r"layers\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _our_name(name: str) -> str | None:
    """A published tensor by our name; None for what no published prior has."""
    match = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name)
    if match and match[2] in LAYERS:
        return f"blocks.{match[1]}.{LAYERS[match[2]]}.weight"
    return OTHERS.get(name)
