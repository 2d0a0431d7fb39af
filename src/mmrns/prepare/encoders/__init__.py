"""Encoders: texts, pictures and numbers become tokens, which are stored in the feature files of a dataset folder.

An encoder is a class with a name, see `Encoder`; it answers values [n, L, D] (n entities, L tokens, D feature width)
and a mask. Ours need the extra `encode`, whose libraries are imported only when an encoder runs.
"""

from mmrns.prepare.encoders.base import ENCODERS, Encoder
from mmrns.prepare.encoders.described import Described, encode_entities, read_described
from mmrns.prepare.encoders.encode import encode_numbers, encode_pictures, encode_texts
from mmrns.prepare.encoders.files import stream_features, write_features
from mmrns.prepare.encoders.numbers import NumberEncoder, number_tokens
from mmrns.prepare.encoders.pictures import GRID_WIDTH, GridEncoder, PictureEncoder, VisionEncoder, grid_tokens
from mmrns.prepare.encoders.rows import Encoded, Skipped
from mmrns.prepare.encoders.texts import SentenceEncoder, split_sentences, text_tokens

__all__ = [
    "ENCODERS",
    "GRID_WIDTH",
    "Described",
    "Encoded",
    "Encoder",
    "GridEncoder",
    "NumberEncoder",
    "PictureEncoder",
    "SentenceEncoder",
    "Skipped",
    "VisionEncoder",
    "encode_entities",
    "encode_numbers",
    "encode_pictures",
    "encode_texts",
    "grid_tokens",
    "number_tokens",
    "read_described",
    "split_sentences",
    "stream_features",
    "text_tokens",
    "write_features",
]
