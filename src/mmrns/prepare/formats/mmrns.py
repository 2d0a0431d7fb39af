"""The files that the authors of MMRNS publish: tables, a file of links, and features in HDF5."""

from __future__ import annotations

from pathlib import Path

from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import text_splits
from mmrns.prepare.formats.features import KINDS, Source, find_links
from mmrns.prepare.formats.tables import Tsv


class Mmrns(Tsv, name="mmrns"):
    """The triples are tables. Features and links tell it apart from other folders of tables."""

    title = "the authors' files: train.txt ..., ent_links or *SameAsLink*, HDF5 features"
    aliases = ()
    takes = "folder"

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and bool(text_splits(path)) and find_links(path) is not None

    def files(self, folder: Path) -> set[Path]:
        links = find_links(folder)
        return {*super().files(folder), *([] if links is None else [links])}

    def features(self, folder: Path) -> dict[str, Source]:
        """The HDF5 files, which lie in the folder of the triples or beside it.

        Beside it they are named after the dataset: `MKG_W_...h5` beside `MKG-W/`, `MMKB_...h5` beside `MMKB-DB15K/`.
        """
        stems = (folder.name.replace("-", "_").lower(), folder.name.split("-")[0].lower() + "_")
        inside = [path for path in sorted(folder.iterdir()) if path.suffix in (".h5", ".hdf5")]
        folder = folder.absolute()
        beside = [path for path in sorted(folder.parent.iterdir()) if path.suffix in (".h5", ".hdf5")]
        named = next((found for stem in stems if (found := [p for p in beside if p.name.lower().startswith(stem)])), [])
        sources: dict[str, Source] = {}
        for path in inside or named:
            kind = next((kind for kind, words in KINDS.items() if words.search(path.stem.lower())), None)
            if kind is not None:
                sources.setdefault(kind, Source(path))
        return sources

    write = Layout.write
