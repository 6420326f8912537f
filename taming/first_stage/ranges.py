"""How large the parts of a first stage may be: wider than any that was ever trained, below what
breaks a machine.
"""

from collections.abc import Sequence
from typing import Annotated

from taming.config.ranges import Length, Range

NumCodes = Annotated[int, Range(2, 2**24)]
"""Of one code nothing can be said."""
Width = Annotated[int, Range(1, 2**14)]
"""Of a layer, a latent."""
Channels = Annotated[int, Range(1, 2**12)]
"""Of an image, labels of a mask."""
Blocks = Annotated[int, Range(0, 128)]
Halvings = Annotated[int, Range(1, 10)]
Multipliers = Annotated[Sequence[Annotated[int, Range(1, 64)]], Length(1, 11)]
"""Widths of the scales, in units of the first."""
Batches = Annotated[int, Range(0, 2**40)]
"""Of training; 0 for at once, or never."""
