"""What classes of one's own need where they stand: said in one line, before anything runs."""

import inspect
from typing import Any

from taming.errors import UserError

NEEDS = {  # seam: (attributes, methods, the kind that taming new writes)
    "Quantizer": (("num_codes", "dim"), ("forward", "embed"), "quantizer"),
    "Conditioner": ((), ("forward", "parts"), "condition"),
    "Prior": ((), ("forward",), None),
    "FirstStage": (("last_layer",), ("_run_encoder", "_run_decoder"), None),
    "FirstStageLoss": ((), ("reconstruction",), None),
}
SIGNATURES = {
    "forward": {
        "Quantizer": "forward(latent) -> Quantized",
        "Conditioner": "forward(batch) -> a tuple of Part",
        "Prior": "forward(codes, condition) -> logits (B, h, w, K)",
    },
    "embed": {"Quantizer": "embed(codes) -> latent (B, D, h, w)"},
    "parts": {"Conditioner": "parts(size) -> a tuple of PartShape"},
    "reconstruction": {"FirstStageLoss": "reconstruction(image, reconstruction) -> loss, terms"},
    "num_codes": {"Quantizer": "num_codes, a tuple such as (512,)"},
    "dim": {"Quantizer": "dim, the width of the latent"},
}


def seam_of(kind: type) -> type | None:
    """The class of ours that it has to be a kind of."""
    return next((base for base in kind.__mro__ if base.__name__ in NEEDS and _is_ours(base)), None)


def advice(hint: Any) -> str:
    """How to write a class of one's own of a declared kind; empty where that is no seam."""
    kind = seam_of(hint) if inspect.isclass(hint) else None
    if kind is None:
        return ""
    attributes, methods, word = NEEDS[kind.__name__]
    members = ", ".join(_signature(name, kind) for name in (*attributes, *methods))
    start = f"; taming new {word} NAME writes one to start from" if word else ""
    return f": a subclass of {kind.__module__}.{kind.__name__} with {members}{start}"


def check_members(part: Any, place: str) -> None:
    """Raises UserError where an object of a class of one's own lacks what its seam relies on."""
    kind = seam_of(type(part))
    if kind is None or _is_ours(type(part)):
        return
    attributes, methods, word = NEEDS[kind.__name__]
    missing = [name for name in attributes if not hasattr(part, name)]
    missing += [name for name in methods if getattr(type(part), name) is getattr(kind, name)]
    if missing:
        members = ", ".join(_signature(name, kind) for name in missing)
        start = f"; see: taming new {word} NAME" if word else ""
        raise UserError(f"{place}: {type(part).__name__} lacks {members}{start}")
    parts = (*part._modules, *part._parameters, *part._buffers)
    hidden = [name for name in parts if hasattr(type(part), name)]
    if hidden:
        raise UserError(
            f"{place}: {type(part).__name__}.{hidden[0]} has the name of a method of"
            f" {kind.__name__}, which hides it; call it otherwise"
        )
    num_codes = getattr(part, "num_codes", ())
    if kind.__name__ == "Quantizer" and not isinstance(num_codes, tuple):
        raise UserError(
            f"{place}: {type(part).__name__}.num_codes is {num_codes!r:.40}, but a tuple such as"
            " (512,) is expected, one number for each level"
        )


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "taming"


def _signature(name: str, kind: type) -> str:
    return SIGNATURES.get(name, {}).get(kind.__name__, name)
