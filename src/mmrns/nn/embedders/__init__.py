"""Embedders: ids of entities to the vectors that they are scored by, one class a file."""

from mmrns.nn.embedders.base import STRUCTURE, Embedder
from mmrns.nn.embedders.computed import ComputedEmbedder
from mmrns.nn.embedders.fused import AttentionPool, FusedEmbedder
from mmrns.nn.embedders.hosted import Rows, RowsAtHand, on_host
from mmrns.nn.embedders.hyper import HyperEmbedder
from mmrns.nn.embedders.momok import ExpertsEmbedder
from mmrns.nn.embedders.table import EntityVectors, Table, TableEmbedder, keep_on_host

__all__ = [
    "STRUCTURE",
    "AttentionPool",
    "ComputedEmbedder",
    "Embedder",
    "EntityVectors",
    "ExpertsEmbedder",
    "FusedEmbedder",
    "HyperEmbedder",
    "Rows",
    "RowsAtHand",
    "Table",
    "TableEmbedder",
    "keep_on_host",
    "on_host",
]
