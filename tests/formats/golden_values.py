"""Values that the published code gave, and the distance to them."""

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> tuple[dict[str, Tensor], dict]:
    """Tensors, and the sizes that they go with."""
    sizes = json.loads((GOLDEN / f"{name}.json").read_text())
    return load_file(GOLDEN / f"{name}.safetensors"), sizes


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()
