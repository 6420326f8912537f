"""Attention (Vaswani et al. 2017, arXiv 1706.03762): softmax(q k^T / sqrt(d)) v.

torch's fused kernel holds no matrix of all tokens by all tokens, but on a CPU computes in float32
whatever it is given, and what is hidden, too. Where the matrix is small, ours is faster: products
of blocks of rows with only the keys that these see, in the numbers that are given
(docs/measurements.md, "Attention on a CPU").
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.precision import fast_bfloat16

ROWS = {torch.float32: 64, torch.bfloat16: 128, torch.float64: 64}
"""Of one block, where later tokens are hidden."""
FEWEST = 64  # tokens, from which on ours is faster
LARGEST = 1 << 26  # bytes of all probabilities, which are held for the backward pass


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    together: int = 0,
) -> Tensor:
    """What each token takes from those that it sees.

    Args:
        query: (B, heads, T, d).
        key: (B, heads, S, d).
        value: (B, heads, S, d).
        visible: (T, S) bool, who sees whom; None: as the next ones say.
        dropout: probability, of what a token takes from another.
        causal: tokens see themselves and those before them; T = S.
        together: so many of the first see each other all the same.

    Returns:
        (B, heads, T, d).
    """
    if visible is None and not dropout and _in_blocks(query, key, value, causal, together):
        if torch.is_autocast_enabled("cpu"):  # torch's takes part in it, too
            kind = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(kind), key.to(kind), value.to(kind)
        with torch.autocast("cpu", enabled=False):
            learned = torch.is_grad_enabled()
            return _Blocks.apply(query, key, value, causal, together, learned)
    if causal and together:
        visible = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        visible.tril_()[:together, :together] = True
        causal = False
    return F.scaled_dot_product_attention(query, key, value, visible, dropout, causal)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, causal: bool, together: int) -> bool:
    """Whether ours is the faster way, as measured; programs that are recorded and transforms of
    torch.func have torch's.
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    recorded = recorded or torch.onnx.is_in_onnx_export()
    if query.device.type != "cpu" or recorded or torch._C._are_functorch_transforms_active():
        return False
    if query.shape[:2] != key.shape[:2] or key.shape[:3] != value.shape[:3]:
        return False
    kinds = {query.dtype, key.dtype, value.dtype}
    if torch.is_autocast_enabled("cpu") and torch.float64 not in kinds:
        kinds = {torch.get_autocast_dtype("cpu")}
    if len(kinds) > 1:
        return False
    (kind,) = kinds
    faster = _fast_bfloat16() if kind == torch.bfloat16 else kind == torch.float32 and causal
    if not faster or query.shape[2] < FEWEST:
        return False
    length, seen = query.shape[2], key.shape[2]
    if causal:
        seen = min(seen, (seen + together + ROWS[kind]) // 2)
    return query.shape[:2].numel() * length * seen * kind.itemsize <= LARGEST


@cache
def _fast_bfloat16() -> bool:
    """Else torch's is up to three times as fast, in float32."""
    return fast_bfloat16()


class _Blocks(torch.autograd.Function):
    """In blocks of rows where that hides something, else all rows at once."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        causal: bool,
        together: int,
        learned: bool,
    ) -> Tensor:
        shape, scale = query.shape, query.shape[-1] ** -0.5
        q, k, v = (x.flatten(0, 1) for x in (query, key, value))
        rows = ROWS[q.dtype] if causal else shape[2]
        out, saved = q.new_empty(*q.shape[:2], v.shape[2]), []
        learned = learned and any(ctx.needs_input_grad)
        for start in range(0, shape[2], rows):
            end = min(start + rows, shape[2])
            seen = min(max(end, together), k.shape[1]) if causal else k.shape[1]
            scores = _product(q[:, start:end], k[:, :seen].transpose(1, 2), scale)
            if causal:
                hidden = _hidden(start, end, seen, together)
                scores[:, :, start:].masked_fill_(hidden, -torch.inf)
            probabilities = scores.softmax(dim=-1)
            torch.bmm(probabilities, v[:, :seen], out=out[:, start:end])
            if learned:
                saved.append(probabilities)
        if learned:
            ctx.save_for_backward(q, k, v, out, *saved)
            ctx.shapes, ctx.rows = (query.shape, key.shape, value.shape), rows
        return out.view(*shape[:3], v.shape[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore
        """With P the probabilities and g the gradient at the output: of the values P^T g, of the
        scores P (g v^T - rowsum(g out)).
        """
        if torch.is_grad_enabled():
            raise RuntimeError("attention has no second derivative on a CPU, as torch's has none")
        q, k, v, out, *saved = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        g = gradients[0].reshape(out.shape)
        taken = (g * out).sum(dim=-1, keepdim=True)
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        with torch.autocast("cpu", enabled=False):
            for block, probabilities in enumerate(saved):
                place = slice(block * ctx.rows, (block + 1) * ctx.rows)
                seen = probabilities.shape[-1]
                of_v[:, :seen].baddbmm_(probabilities.transpose(1, 2), g[:, place])
                scores = torch.bmm(g[:, place], v[:, :seen].transpose(1, 2))
                scores.sub_(taken[:, place]).mul_(probabilities)
                of_q[:, place] = _product(scores, k[:, :seen], scale)
                of_k[:, :seen].baddbmm_(scores.transpose(1, 2), q[:, place], alpha=scale)
        of_each = (x.view(shape) for x, shape in zip((of_q, of_k, of_v), ctx.shapes))
        return *of_each, None, None, None


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _hidden(start: int, end: int, seen: int, together: int) -> Tensor:
    """(end - start, seen - start) bool: of the keys from `start` on, whose before are all seen."""
    row, column = torch.arange(start, end)[:, None], torch.arange(start, seen)
    return (column > row) & ~((row < together) & (column < together))
