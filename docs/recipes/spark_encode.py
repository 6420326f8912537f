"""Codes of many pictures with Spark: each partition of a parquet of paths is encoded by one task,
which writes one file.

    spark-submit spark_encode.py CKPT PATHS.parquet OUT --size 256 --partitions 64

PATHS.parquet has a column `path`. OUT is a folder of parquet files with `path`, `codes` and
`problem`, on a disk that all workers see. Start it again after a crash: partitions whose file is
there are passed over.
"""

import argparse
import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from taming.inference.engine import encoder_of


def encode_partition(number: int, rows: Iterator, options: argparse.Namespace) -> Iterator[int]:
    """Writes one file, and gives the number of its pictures."""
    file = os.path.join(options.out, f"{number:05d}.parquet")
    paths = [row["path"] for row in rows]
    if paths and not os.path.isfile(file):
        # Once in each of Spark's Python workers, which are used again
        result = encoder_of(options.checkpoint, options.size)(paths)
        codes = pa.array(list(result["codes"]), pa.list_(pa.uint16()))
        table = pa.table({"path": paths, "codes": codes, "problem": result["problem"]})
        temporary = f"{file}.{os.getpid()}.tmp"
        pq.write_table(table, temporary)
        os.replace(temporary, file)  # whole, or not there
    yield len(paths)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("paths")
    parser.add_argument("out")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--partitions", type=int, default=64)
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    spark = SparkSession.builder.appName("taming encode").getOrCreate()
    # Sorted, so that a partition holds the same pictures at every start
    paths = spark.read.parquet(options.paths).select("path").orderBy("path")
    pairs = paths.rdd.zipWithIndex().map(lambda entry: (entry[1] % options.partitions, entry[0]))
    parts = pairs.partitionBy(options.partitions, lambda number: number).values()
    work = parts.mapPartitionsWithIndex(
        lambda number, rows: encode_partition(number, rows, options)
    )
    print(f"{work.sum()} pictures are encoded")
    spark.stop()


if __name__ == "__main__":
    main()
