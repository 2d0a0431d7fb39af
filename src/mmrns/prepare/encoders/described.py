"""Entities that arrive later, described in files: encoded as the features of a dataset were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from mmrns.data.features import Modality
from mmrns.errors import DataError, UsageError, note
from mmrns.files import misfit, read_json
from mmrns.prepare.encoders.base import ENCODERS, Encoder, checked, open_encoder, settings_of
from mmrns.prepare.encoders.encode import NAMED, PREPARED, SENTENCES, sentences_of
from mmrns.prepare.encoders.files import Block
from mmrns.prepare.encoders.numbers import NumberEncoder, tokens_beside
from mmrns.prepare.encoders.pictures import GridEncoder, VisionEncoder, read_picture, reading_pictures
from mmrns.prepare.encoders.rows import WRITER
from mmrns.prepare.encoders.texts import SentenceEncoder
from mmrns.prepare.folders import is_picture, pictures_of

Tokens = dict[str, dict[str, Any]]
"""For each modality by name the tokens [L, D] of each entity that has it."""

_REMEDY = "give an id, and a name, text, pictures or numbers"


class Described(BaseModel):
    """An entity, as a file describes it.

    Attributes:
        id: what it is called in queries and answers.
        name: its readable name.
        text: what is said of it, in sentences.
        pictures: paths, relative to the file.
        numbers: by attribute one number, or several.
        features: instead of what they are made of, the tokens [L, D], or a single one [D], by modality.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    name: str = ""
    text: str = ""
    pictures: list[Path] = []
    numbers: dict[str, FiniteFloat | list[FiniteFloat]] = {}
    features: dict[str, list[FiniteFloat] | list[list[FiniteFloat]]] = {}


def read_described(path: Path) -> list[Described]:
    """Read what describes entities that arrive later.

    Args:
        path: JSON, an entity or a list of them, see `Described`; or a folder of one entity, whose pictures are its
            pictures, whose `.txt` files are its text, whose `entity.json` says the rest, and whose name is its id where
            that says none.

    Raises:
        DataError: it cannot be read, or is not what is expected.
    """
    if path.is_dir():
        return [_of_folder(path)]
    values = read_json(path, remedy=_REMEDY)
    return [_described(path, one, path.parent) for one in (values if isinstance(values, list) else [values])]


def _of_folder(folder: Path) -> Described:
    own = folder / "entity.json"
    values = {"id": folder.resolve().name, "text": ""}
    read = read_json(own, remedy=_REMEDY) if own.exists() else {}
    said = _described(own, values | read if isinstance(read, dict) else read, folder)
    files = pictures_of(folder)
    texts = [said.text, *(_read_text(file) for file in files if file.suffix == ".txt")]
    pictures = dict.fromkeys([*said.pictures, *filter(is_picture, files)])
    return said.model_copy(update={"text": "\n".join(texts), "pictures": [*pictures]})


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "save it as UTF-8") from error


def _described(path: Path, values: Any, folder: Path) -> Described:
    if reason := misfit(values, Described):
        raise DataError(path, f"describes no entity ({reason})", _REMEDY)
    found = Described.model_validate(values)
    if found.id.splitlines() != [found.id]:
        raise DataError(path, f"the id {found.id!r} is no line of text", "give another")
    return found.model_copy(update={"pictures": [folder / picture for picture in found.pictures]})


def encode_entities(
    described: Sequence[Described],
    modalities: Mapping[str, Modality],
    *,
    encoders: Mapping[str, str | type[Encoder] | Encoder] | None = None,
    device: str = "cpu",
) -> Tokens:
    """Encode entities that arrive later by the encoders that made the features of a dataset, and as they made them.

    What has a name is encoded by its name where it has no text, as by `encode_texts`; ids are not encoded. A number is
    placed among those of the dataset (`tokens_beside`).

    Args:
        described: the entities.
        modalities: the features of the dataset that are wanted, such as `Run.modalities`.
        encoders: by modality, where the recorded encoder is not found, or none is recorded: the one that made it.
        device: where models run.

    Returns:
        What `Run.with_entities` takes.

    Raises:
        UsageError: two have one id; an encoder is not known or not found, or is not the one that made the features.
        DataError: a picture cannot be read.
    """
    ids = [one.id for one in described]
    if twice := [name for name in ids if ids.count(name) > 1]:
        raise UsageError(f"new entity {twice[0]!r} is described twice; keep one")
    found: Tokens = {}
    for name, modality in modalities.items():
        given = (encoders or {}).get(name)
        found[name] = {one.id: one.features[name] for one in described if name in one.features}
        others = [one for one in described if name not in one.features]
        match _READS.get(name, "texts"):
            case "numbers":
                made = _numbers(name, modality, others)
            case "pictures":
                made = _pictures(name, modality, others, given, device)
            case _:
                made = _texts(name, modality, others, given, device)
        found[name] |= made
    if unread := sorted({name for one in described for name in one.features} - set(modalities)):
        note(f"the model does not read {', '.join(unread)}: such tokens of new entities are left out")
    return {name: tokens for name, tokens in found.items() if tokens}


_READS = {"text": "texts", "image": "pictures", "numeric": "numbers"}
"""What the features are made of that `mmrns encode` writes."""


def _texts(name: str, modality: Modality, described: Sequence[Described], given: Any, device: str) -> dict[str, Any]:
    """The tokens of each entity that has a name or a text."""
    prepared = SENTENCES if modality.provenance.get("preprocessing", "").startswith(SENTENCES) else NAMED
    rows: dict[str, list[str]] = {}
    for one in described:
        label = [(one.name, True)] if one.name.strip() else []
        named = label if prepared == NAMED or not one.text.strip() else []
        if sentences := sentences_of([*named, (one.text, False)], modality.tokens):
            rows[one.id] = sentences
    if not rows:
        return {}
    encoder = _opened(name, modality, "texts", SentenceEncoder, prepared, given, device)
    return _tokens([*rows], checked(encoder, modality.tokens)([*rows.values()]))


def _pictures(name: str, modality: Modality, described: Sequence[Described], given: Any, device: str) -> dict[str, Any]:
    """The tokens of each entity that has a picture."""
    some = [one for one in described if one.pictures]
    if not some:
        return {}
    encoder = _opened(name, modality, "pictures", VisionEncoder, PREPARED, given, device)
    with reading_pictures():
        pictures = [[_picture(path) for path in one.pictures[: modality.tokens]] for one in some]
    return _tokens([one.id for one in some], checked(encoder, modality.tokens)(pictures))


def _picture(path: Path) -> Any:
    try:
        return read_picture(path)
    except ValueError as error:
        raise DataError(path, str(error), "give another picture") from error


def _tokens(entities: Sequence[str], block: Block) -> dict[str, Any]:
    return {name: v[there] for name, v, there in zip(entities, *block, strict=True) if there.any()}


def _opened(
    name: str, modality: Modality, reads: str, default: type[Encoder], prepared: str, given: Any, device: str
) -> Encoder:
    """The encoder that made a modality.

    Raises:
        UsageError: it is not recorded, not found, or another one than that.
    """
    made_by = modality.provenance
    recorded = made_by.get("writer") == WRITER
    which = made_by.get("encoder", "unknown")
    option = f"--encoder {name}=MODEL (in Python encoders=)"
    if given is None and not recorded:
        how = f"say what makes them by {option}, or give tokens under `features`"
        raise UsageError(f"the features {name!r} were not made by `mmrns encode` (encoder: {which}); {how}")
    try:
        opened = open_encoder(given or _NAMES.get(which, which), reads, default, device=device)
    except UsageError as error:
        raise UsageError(
            f"the features {name!r} were made by {which!r}: {error}; or say which it is by {option}"
        ) from error
    if not recorded:
        note(f"whether that encoder made the features {name!r} is not recorded (encoder: {which})")
        return opened
    now = settings_of(opened, modality.tokens, prepared)
    # Of weights that are the same the name says no more.
    same = now["revision"].startswith("sha256") and now["revision"] == made_by.get("revision")
    differing = sorted(
        key for key, value in now.items() if made_by.get(key) != value and not (same and key == "encoder")
    )
    if differing:
        what = f"the features {name!r} were made with another {' and '.join(differing)} than this encoder has"
        if given is None:
            raise UsageError(f"{what}; say which it is by {option}, or encode the dataset anew and train again")
        note(what)
    return opened


_NAMES = {GridEncoder.name: ENCODERS.name_of(GridEncoder)}
"""Of encoders that record themselves otherwise than they are asked for."""


def _numbers(name: str, modality: Modality, described: Sequence[Described]) -> dict[str, Any]:
    """The tokens of each entity that has a number of an attribute that the dataset has."""
    pairs = {
        one.id: [(key, value) for key, v in one.numbers.items() for value in (v if isinstance(v, list) else [v])]
        for one in described
        if one.numbers
    }
    if not pairs:
        return {}
    if modality.provenance.get("encoder") != NumberEncoder().settings(modality.tokens)["encoder"]:
        what = (
            f"the features {name!r} were not made by the encoder {ENCODERS.name_of(NumberEncoder)!r} of `mmrns encode`"
        )
        raise UsageError(f"{what}, so that no number can be placed among theirs; give tokens under `features`")
    known: dict[str, list[tuple[float, Any]]] = {}
    for entity in modality.present.nonzero()[:, 0].tolist():
        row = int(modality.row[entity])
        tokens = modality.values[row][modality.mask[row]].cpu().numpy()
        for origin, token in zip(modality.made_of(entity), tokens, strict=False):
            attribute, _, value = str(origin).rpartition(" ")
            known.setdefault(attribute, []).append((float(value), token))
    if not known:
        raise UsageError(f"which numbers became the features {name!r} is not recorded; give tokens under `features`")
    strange = sorted({attribute for row in pairs.values() for attribute, _ in row if attribute not in known})
    if strange:
        note(f"the features {name!r} have no attribute {strange[0]!r}: such numbers of new entities are left out")
    pairs = {entity: [pair for pair in row if pair[0] in known] for entity, row in pairs.items()}
    pairs = {entity: row for entity, row in pairs.items() if row}
    return dict(zip(pairs, tokens_beside(known, [*pairs.values()], modality.tokens), strict=True))
