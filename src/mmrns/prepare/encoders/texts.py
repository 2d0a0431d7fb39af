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
_TERMINALS = (
    "589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D5 1803 "
    "1809 1944-1945 1AA8-1AAB 1B4E-1B4F 1B5A-1B5B 1B5E-1B5F 1B7D-1B7F 1C3B-1C3C 1C7E-1C7F 2024 203C-203D "
    "2047-2049 2CF9-2CFB 2E2E 2E3C 2E53-2E54 2E60-2E61 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F "
    "A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE12 FE15-FE16 FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 "
    "10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 "
    "113D4-113D5 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C "
    "11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16D6E-16D6F 16E98 1BC9F 1DA88"
)
"""Code points of the property Sentence_Terminal, but for those of ASCII (Unicode 17.0, PropList.txt, UAX #29)."""

_STOPS = "".join(
    f"\\U{int(a, 16):08X}-\\U{int(b or a, 16):08X}" for a, _, b in (p.partition("-") for p in _TERMINALS.split())
)
_CLOSE = r"[\"'”’»)\]」』】〉》｣]*"
_END = re.compile(
    rf"(?P<mark>[.!?…]+){_CLOSE}\s+(?=[\"'“‘«(\[¿¡]*(?P<next>[^\W_]))"  # Latin: then a blank and no small letter
    rf"|(?P<stop>[{_STOPS}]+){_CLOSE}\s*"
    r"|\s*[\r\n]+\s*"
)
_ABBREVIATED = re.compile(
    rf"(?:^|[\s(\[\"'“])(?:{'|'.join(map(re.escape, _ABBREVIATIONS.split()))}|(?:\w\.)*[^\W\d_])$", re.I
)


def split_sentences(text: str, limit: int | None = None) -> list[str]:
    """The sentences of a text, without a model: at the stops of all scripts, and at line ends.

    After a full stop, question or exclamation mark of ASCII a blank must follow, and no small letter; a full stop after
    a single letter ("J. R. R. Tolkien", "U.S.") or a common abbreviation ("Dr.") ends nothing. The marks of other
    scripts (danda, Arabic question mark, ideographic full stop ...: Unicode's property Sentence_Terminal) end a
    sentence wherever they stand but between digits. Thai has none, and its sentences are its lines.

    >>> split_sentences('He met Dr. Watson in 1881. "Elementary!" he said. The end')
    ['He met Dr. Watson in 1881.', '"Elementary!" he said.', 'The end']
    >>> len(split_sentences("पहला वाक्य। दूसरा वाक्य।"))
    2

    Args:
        text: any text.
        limit: stop after so many.
    """
    found: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if not _ends(text, start, end):
            continue
        found += [sentence] if (sentence := text[start : end.end()].strip()) else []
        start = end.end()
        if limit is not None and len(found) >= limit:
            return found
    rest = text[start:].strip()
    return [*found, rest] if rest else found


def _ends(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether what looks like an end is one."""
    if end["mark"]:
        small = end["next"].islower()
        return not small and not (end["mark"] == "." and _ABBREVIATED.search(text, start, end.start()))
    if end["stop"]:
        after = end.end("stop")
        return not (text[end.start() - 1 : end.start()].isdigit() and text[after : after + 1].isdigit())
    return True


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
