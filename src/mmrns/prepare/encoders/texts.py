"""Texts -> tokens: one sentence embedding a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from mmrns.prepare.encoders.base import Encoder, Inputs
from mmrns.prepare.encoders.files import Block
from mmrns.prepare.encoders.models import find_model

_ABBREVIATIONS = (
    "al approx ave bros ca cf ch co corp dept dr ed eds e.g eq est etc fig gen gov hon i.e inc jr lt ltd "
    "mr mrs ms mt nos op p pl pp prof rev sec sen sgt sr st vol vs"
)
_END = re.compile(
    r"(?P<mark>[.!?…]+)(?P<close>[\"'”’»)\]]*)\s+(?=[\"'“‘«(\[¿¡]*[^\W_a-z])"  # Latin: then a blank and no small letter
    r"|(?P<full>[。！？]+[」』”]?)\s*"
    r"|\s*[\r\n]+\s*"
)
_ABBREVIATED = re.compile(
    rf"(?:^|[\s(\[\"'“])(?:{'|'.join(map(re.escape, _ABBREVIATIONS.split()))}|(?:\w\.)*[^\W\d_])$", re.I
)


def split_sentences(text: str, limit: int | None = None) -> list[str]:
    """The sentences of a text, without a model: at full stops that a capital letter or digit follows, and at line ends.

    A stop after a single letter ("J. R. R. Tolkien", "U.S.") or a common abbreviation ("Dr.") ends nothing.

    >>> split_sentences('He met Dr. Watson in 1881. "Elementary!" he said. The end')
    ['He met Dr. Watson in 1881.', '"Elementary!" he said.', 'The end']

    Args:
        text: any text.
        limit: stop after so many.
    """
    found: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if end["mark"] == "." and _ABBREVIATED.search(text, start, end.start()):
            continue
        found += [sentence] if (sentence := text[start : end.end()].strip()) else []
        start = end.end()
        if limit is not None and len(found) >= limit:
            return found
    rest = text[start:].strip()
    return [*found, rest] if rest else found


class SentenceEncoder(Encoder, name="sentence-transformers"):
    """A sentence-transformers model: a token is the embedding of a sentence.

    Sentence-BERT (Reimers and Gurevych, EMNLP 2019, https://arxiv.org/abs/1908.10084).

    Args:
        model: a name (`sentence-transformers/` is put before one without a slash), or the folder of a saved model.
        batch_size: strings encoded at a time.
        device: where the model runs; None lets sentence-transformers choose.

    Attributes:
        name, revision: of the model.

    Raises:
        UsageError: the model is not found or cannot be loaded.
    """

    reads = "texts"

    def __init__(self, model: str | Path, *, batch_size: int = 64, device: str | None = None):
        found = find_model(str(model), "sentence-transformers")
        super().__init__(batch_size=batch_size, device=device)
        self.name, self.revision = found.name, found.revision
        with found.loading():
            from sentence_transformers import SentenceTransformer

            weights = {"use_safetensors": True}
            self._model = SentenceTransformer(str(found.folder), device=device, model_kwargs=weights)

    def encode(self, inputs: Inputs, tokens: int) -> Block:
        """See `text_tokens`."""
        rows, strings = _checked(inputs, tokens)
        vectors = np.asarray(
            self._model.encode(  # pyright: ignore[reportUnknownMemberType]
                strings, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
            )
        )
        index = {text: position for position, text in enumerate(strings)}
        values = np.zeros((len(rows), tokens, vectors.shape[1]), dtype=np.float16)
        mask = np.zeros((len(rows), tokens), dtype=np.bool_)
        for number, row in enumerate(rows):
            values[number, : len(row)] = vectors[[index[text] for text in row]]
            mask[number, : len(row)] = True
        return values, mask

    def settings(self, tokens: int) -> dict[str, str]:
        """See `Encoder.settings`."""
        pooling = f"one embedding of unit length for each of the first {tokens}"
        return {"encoder": self.name, "revision": self.revision, "pooling": pooling}


def text_tokens(
    texts: Sequence[Sequence[str]],
    tokens: int,
    model: str | Path,
    *,
    batch_size: int = 64,
    device: str | None = None,
) -> Block:
    """One sentence embedding a string: token l of row i is `e(texts[i][l]) / |e(texts[i][l])|_2`.

    A string that occurs several times is encoded once.

    Args:
        texts: the strings of each row, most telling first. The first `tokens` are used; a row may have none.
        tokens: L, the tokens a row has room for.
        model, batch_size, device: see `SentenceEncoder`.

    Returns:
        values [n, tokens, D], of unit length where present, else 0; mask [n, tokens], True where present.

    Raises:
        ValueError: `tokens` is below 1, a row is a bare string, a used string is blank, or there is none at all.
        UsageError: the model is not found or cannot be loaded.
    """
    _checked(texts, tokens)
    return SentenceEncoder(model, batch_size=batch_size, device=device).encode(texts, tokens)


def _checked(texts: Sequence[Sequence[str]], tokens: int) -> tuple[list[list[str]], list[str]]:
    """The strings that are used, by row and distinct."""
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, not {tokens}")
    rows = [list(row[:tokens]) for row in texts]
    for number, row in enumerate(rows):
        if isinstance(texts[number], str) or not all(text.strip() for text in row):
            raise ValueError(f"row {number} must hold strings that are not blank, not {texts[number]!r}")
    strings = sorted(set(chain.from_iterable(rows)))
    if not strings:
        raise ValueError("there is no string to encode")
    return rows, strings
