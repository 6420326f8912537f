"""Captions in a parquet file beside each shard, with the columns `key` and `caption`: 00000.tar and
00000.parquet, as img2dataset writes them.
"""

import io
import os
from collections import OrderedDict

from taming.data.reading import CorruptImage
from taming.data.storage import Reader, size_and_version
from taming.errors import UserError, first_line

MOST_OPEN = 8  # tables in memory; a window of shards should fit


class ShardCaptions:
    """Captions by shard and key; the tables of the shards that were read last stay in memory.

    Args:
        most_open: how many tables.
    """

    def __init__(self, most_open: int = MOST_OPEN):
        self.most_open, self.tables = most_open, OrderedDict[str, dict[str, str]]()

    def caption(self, shard: str, key: str) -> str:
        """Raises CorruptImage where the table is missing, damaged, or has no such key."""
        if shard not in self.tables:
            if len(self.tables) >= self.most_open:
                self.tables.popitem(last=False)
            self.tables[shard] = read_table(os.path.splitext(shard)[0] + ".parquet")
        self.tables.move_to_end(shard)
        text = self.tables[shard].get(key)
        if text is None:
            raise CorruptImage(f"'{shard}': {key} has no caption in the parquet file beside it")
        return text

    def __getstate__(self) -> dict:
        return {"most_open": self.most_open}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


def read_table(name: str) -> dict[str, str]:
    """Captions by key."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            f"'{name}' needs the package pyarrow; install it with: pip install pyarrow"
        ) from None
    data = Reader(1).read(name, 0, size_and_version(name)[0])
    try:
        table = parquet.read_table(io.BytesIO(data), columns=["key", "caption"])
        pairs = zip(table["key"].to_pylist(), table["caption"].to_pylist())
        return {str(key): str(caption) for key, caption in pairs if caption is not None}
    except Exception as error:  # of a file that is none, or lacks a column
        raise UserError(
            f"'{name}' is no parquet file with the columns key and caption"
            f" ({first_line(error)[:80]})"
        ) from None
