"""The one way to disk: a file is written under a temporary name and renamed, so that its name never holds half of it,
and a folder has one writer at a time.

Also what is read back as it was written: JSON, JSON lines, safetensors. Loads neither torch nor polars before they are
needed.
"""

from mmrns.files.digests import sha256_of, spot_sha256_of, stamp_of
from mmrns.files.folders import new_folder, refuse_taken, refuse_unwritable
from mmrns.files.json_files import JsonLines, json_text, misfit, read_json, read_json_lines, write_json
from mmrns.files.locks import LOCK, locked
from mmrns.files.replacing import link_or_copy, make_folder, replaced, replacing, unwritable, write_changed, write_text
from mmrns.files.tables import FRAME_WRITERS, spreadsheet_safe, write_frame
from mmrns.files.tensors import StoredTensors, read_tensors, tensor_on_disk, write_tensors

__all__ = [
    "FRAME_WRITERS",
    "LOCK",
    "JsonLines",
    "StoredTensors",
    "json_text",
    "link_or_copy",
    "locked",
    "make_folder",
    "misfit",
    "new_folder",
    "read_json",
    "read_json_lines",
    "read_tensors",
    "refuse_taken",
    "refuse_unwritable",
    "replaced",
    "replacing",
    "sha256_of",
    "spot_sha256_of",
    "spreadsheet_safe",
    "stamp_of",
    "tensor_on_disk",
    "unwritable",
    "write_changed",
    "write_frame",
    "write_json",
    "write_tensors",
    "write_text",
]
