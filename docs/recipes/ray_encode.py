"""Codes of many pictures with Ray Data: actors that load the tokenizer once.

    python ray_encode.py CKPT PATHS.parquet OUT --size 256 --actors 2

PATHS.parquet has a column `path`. OUT is a folder of parquet files with `path`, `codes` and
`problem`. Start it again after a crash: what is in OUT already is not encoded again.
"""

import argparse
from pathlib import Path

import pyarrow.parquet as pq
import ray

from taming.inference.engine import BatchEncoder


class Encoder:
    def __init__(self, checkpoint: str, size: int):
        self.encoder = BatchEncoder(checkpoint, size, threads=1)

    def __call__(self, batch: dict) -> dict:
        result = self.encoder([str(path) for path in batch["path"]])
        return {"path": batch["path"], "codes": list(result["codes"]), "problem": result["problem"]}


def done(out: Path) -> set[str]:
    """The pictures that are encoded; what a crash cut short is removed."""
    paths: set[str] = set()
    for file in out.glob("*.parquet"):
        try:
            paths.update(pq.read_table(file, columns=["path"])["path"].to_pylist())
        except Exception:
            file.unlink()
    return paths


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("paths")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    there = done(arguments.out)
    paths = pq.read_table(arguments.paths, columns=["path"])["path"].to_pylist()
    rest = [{"path": path} for path in paths if path not in there]
    print(f"{len(there)} of {len(paths)} pictures are encoded already")
    if not rest:
        return
    # One more than there are actors, for reading and writing
    ray.init(num_cpus=arguments.actors + 1, include_dashboard=False, log_to_driver=False)
    # Small blocks: each is a file of its own, and a crash costs the unfinished ones only
    data = ray.data.from_items(rest, override_num_blocks=-(-len(rest) // arguments.batch))
    data.map_batches(
        Encoder,
        fn_constructor_args=(arguments.checkpoint, arguments.size),
        batch_size=arguments.batch,
        concurrency=arguments.actors,
    ).write_parquet(str(arguments.out))


if __name__ == "__main__":
    main()
