"""Codes of a split on disk: sharded Parquet, written shard by shard, read by id or in order."""

from audiotok.store.reader import TokenStore
from audiotok.store.schema import Description, Utterance
from audiotok.store.writer import TokenWriter

__all__ = ["Description", "TokenStore", "TokenWriter", "Utterance"]
