"""Layouts: how triples lie in files elsewhere, one class each; and `convert` between any two of them."""

from mmrns.prepare.formats.base import LAYOUTS, Layout, sniff
from mmrns.prepare.formats.columns import Chosen
from mmrns.prepare.formats.contents import Contents
from mmrns.prepare.formats.conversion import Converted, convert
from mmrns.prepare.formats.features import Source
from mmrns.prepare.formats.networkx import to_networkx
from mmrns.prepare.formats.pyg import to_pyg
from mmrns.prepare.formats.pykeen import to_pykeen

__all__ = [
    "LAYOUTS",
    "Chosen",
    "Contents",
    "Converted",
    "Layout",
    "Source",
    "convert",
    "sniff",
    "to_networkx",
    "to_pyg",
    "to_pykeen",
]
