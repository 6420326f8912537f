"""`taming evaluate`: all figures of a checkpoint, or of two folders of pictures, in one file, each
with its stamp.
"""

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from taming.errors import UserError, did_you_mean
from taming.evaluation import (
    codebook,
    condition,
    generation,
    layout,
    likelihood,
    path,
    reconstruction,
    rows,
)
from taming.evaluation.protocol import Figures
from taming.evaluation.session import Request, Session
from taming.files import folder_beside, is_stream

EVALUATIONS = {
    "reconstruction": reconstruction.evaluate,
    "codes": codebook.evaluate,
    "likelihood": likelihood.evaluate,
    "condition": condition.evaluate,
    "generation": generation.evaluate,
    "layout": layout.evaluate,
    "path": path.evaluate,
}


def evaluate(out: str | Path = "figures.json", **request: Any) -> Figures:
    """Measures a checkpoint, or two folders of pictures.

        taming.evaluate("figures.json", checkpoint="landscapes", data="photographs", seed=1)

    What is done when it is interrupted is not done again. Under torchrun every process measures its
    share, and all return the same figures.

    Args:
        out: the .json that is written; montages go into a folder of the same name beside it.
        request: see `Request`.

    Raises:
        UserError: a request for what there is not, files that can't be read or written, ...
    """
    # 1. the request
    for name in request:
        if name not in Request.__dataclass_fields__:
            raise UserError(
                f"evaluate: unknown {name}{did_you_mean(name, Request.__annotations__)}"
            )
    wish, out = Request(**request), Path(out)
    wish.check()
    wish.check_outputs(out)
    wish.check_inputs()
    rows.join_processes()
    if is_stream(out) and dist.is_initialized():
        raise UserError(f"-o {out}: several processes meet in the folder beside a file; give one")
    with folder_beside(out) as folder:
        # 2. the parts
        session = Session(wish, out, folder)
        for name, part in EVALUATIONS.items():
            if name in wish.only:
                part(session)
        # 3. the figures; nothing is left to resume
        if session.store.shard[1] > 1:
            return Figures()
        if session.store.rank == 0:
            session.figures.write(out)
            shutil.rmtree(session.store.folder, ignore_errors=True)
        session.store.wait()
    return session.figures
