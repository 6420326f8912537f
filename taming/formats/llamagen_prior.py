"""LlamaGen's class-conditional priors (Sun et al. 2024, arXiv 2406.06525): a Transformer as Llama's
over the codes of its tokenizer, which lies beside it.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from taming.config import from_plain, to_plain
from taming.config.ranges import Decay
from taming.errors import UserError
from taming.formats import llamagen
from taming.formats.content import Content
from taming.formats.ours import read_raw
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
    path, state = source.path, source.weights
    if TEXT in state:
        raise UserError(
            f"'{path}' is conditioned on features of text (T5), which no conditioner here reads;"
            " LlamaGen's class-conditional priors (c2i) are supported"
        )
    if CLASSES not in state or state[CLASSES].ndim != 2:
        raise UserError(f"'{path}' lacks '{CLASSES}'; is it whole? download it again")
    first = _read_tokenizer(path, allow)
    classes, width = len(state[CLASSES]) - 1, state[CLASSES].shape[1]
    if width not in HEADS:
        raise UserError(f"'{path}' is {width} wide; LlamaGen's are {', '.join(map(str, HEADS))}")
    side = _grid_side(path)
    layers = 1 + max(_layer(name) for name in state)
    prior = {"layers": layers, "heads": HEADS[width], "width": width}
    prior |= {"num_codes": first.config["model"]["params"]["quantizer"]["params"]["num_codes"]}
    prior |= {"grid": [side, side], "parts": [{"vocabulary": classes, "length": 1}]}
    conditioner = {"target": "taming.second_stage.ClassLabel", "params": {"classes": classes}}
    model = {
        "target": "taming.second_stage.SecondStage",
        "params": {
            "first_stage": first.config["model"],
            "conditioner": conditioner,
            "prior": {"target": f"{__name__}.LlamaGenGPT", "params": prior},
        },
    }
    weights = {f"first_stage.{name}": tensor for name, tensor in first.weights.items()}
    unknown = list(first.unknown)
    for name, tensor in state.items():
        ours = _our_name(name)
        if ours is None:
            unknown.append(name)
        else:
            weights[f"priors.0.{ours}"] = tensor
    weights["priors.0.pos_emb"] = torch.zeros(1, side * side + 1, width)
    tree = {"model": model, "condition_dropout": 0.1, "variables": {"size": 16 * side}}
    return Content(
        stage="second",
        config=to_plain(from_plain(tree)),
        weights=weights,
        batches=0,
        figures={},
        unused=source.unused | first.unused,
        notes=[*source.notes, f"its tokenizer is '{tokenizer_of(path)}'"],
        unknown=unknown,
        source=NAME,
        path=str(path),
        allow=tuple(allow),
    )


def tokenizer_of(path: Path) -> Path | None:
    """The tokenizer beside a prior."""
    places = (path.parent / name for name in TOKENIZERS)
    return next((place for place in places if place.is_file()), None)


def _read_tokenizer(path: Path, allow: Iterable[str]) -> Content:
    tokenizer = tokenizer_of(path)
    if tokenizer is None:
        raise UserError(
            f"'{path}' is a prior of LlamaGen without its tokenizer; put '{TOKENIZERS[0]}' into the"
            " same folder"
        )
    source = Source(tokenizer, read_raw(tokenizer))
    if not llamagen.recognises(source):
        raise UserError(f"'{tokenizer}' is not a tokenizer of LlamaGen")
    return llamagen.read(source, allow)


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
