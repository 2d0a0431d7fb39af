"""Encoders: texts, pictures and numbers -> tokens, and the feature files that hold them.

Every encoder answers values [n, L, D] (n entities, L tokens, D feature width); `write_features` stores them in the
layout of a dataset folder. Needs the `encode` extra, whose libraries are imported only when one runs.
"""

from mmrns.prepare.encoders.encode import encode_numbers, encode_pictures, encode_texts
from mmrns.prepare.encoders.files import stream_features, write_features
from mmrns.prepare.encoders.numbers import number_tokens
from mmrns.prepare.encoders.pictures import GRID_WIDTH, GridEncoder, VisionEncoder, grid_tokens
from mmrns.prepare.encoders.rows import Encoded, Skipped
from mmrns.prepare.encoders.texts import SentenceEncoder, split_sentences, text_tokens

__all__ = [
    "GRID_WIDTH",
    "Encoded",
    "GridEncoder",
    "SentenceEncoder",
    "Skipped",
    "VisionEncoder",
    "encode_numbers",
    "encode_pictures",
    "encode_texts",
    "grid_tokens",
    "number_tokens",
    "split_sentences",
    "stream_features",
    "text_tokens",
    "write_features",
]
