"""Readers and writers of other layouts: one file a family of layouts, and `convert` between any two."""

from mmrns.data.formats.contents import Contents
from mmrns.data.formats.conversion import LAYOUTS, TARGETS, Converted, convert
from mmrns.data.formats.features import Source
from mmrns.data.formats.pykeen import to_pykeen

__all__ = ["LAYOUTS", "TARGETS", "Contents", "Converted", "Source", "convert", "to_pykeen"]
