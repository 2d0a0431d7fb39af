"""Readers and writers of other layouts: one file a family of layouts, and `convert` between any two."""

from mmrns.prepare.formats.contents import Contents
from mmrns.prepare.formats.conversion import LAYOUTS, TARGETS, Converted, convert
from mmrns.prepare.formats.features import Source
from mmrns.prepare.formats.pykeen import to_pykeen

__all__ = ["LAYOUTS", "TARGETS", "Contents", "Converted", "Source", "convert", "to_pykeen"]
