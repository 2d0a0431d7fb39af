"""Valid files are changed a little: by bytes, by lines and fields, or by what their format is made of.

A change keeps what a reader checks first (checksums, lengths, magic numbers) more often than not, so that it gets past
it. Everything is drawn from the `Random` that is given: the same one makes the same file.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

# fmt: off
_BYTES = [
    b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\x1b[2J", b"\r", b"\n",
    b"\t", b" ", b"\x0b", b"\x0c", b"\x1f\x8b", b"PK\x03\x04", b"\x93NUMPY", b"PAR1", b"\x89HDF\r\n\x1a\n",
]
_TEXTS = [
    "", " ", '"', "'", '""', '"a', "\\", "#", "?", ",", ";", "|", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", "\u2028",
    "\u0085", "\x0b", "\x1c", "\ufeff", "é", "e\u0301", "日本", "🙂", "\u202e", "\x7f", "\x00", "0", "-0", "-1", "1",
    "2", "007", "1e999", "NaN", "inf", "-inf", "999999999999999999", "9223372036854775807", "9223372036854775808",
    "18446744073709551616", "9" * 400, "0x10", "1_000", "١", "None", "null", "true", "..", "../x", "/",
    "/etc/passwd", "C:\\x", "a" * 300, "a" * 70_000, "%", "%zz", "%00", "&", "<", ">", "http://", "a:b", "head",
    "relation", "tail", "entity", "name", "image", "train", "__class__", "{", "}", "{0}", "[", "]", "(", "*", "+",
    "$(x)", "[bold]",
]
_OF_KIND = {
    "rdf": [
        "<", ">", "<a>", "<>", "<http://a b>", "_:", "_:b", ".", ";", "@prefix", "@prefix : <u:> .", "@base", "@en",
        "^^", "^^<x>", '"""', "'''", "\\u0000", "\\uD800", "\\U00110000", "<<", ">>", "<<(", "(", "[", "]", "{", "}",
        "#", "a", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "&#0;", "<![CDATA[", "<?xml version='9'?>",
        "xml:base='x'", "rdf:parseType='Collection'", "rdf:parseType='Literal'", "xmlns:a=''", "\\", "true", "1e5",
        "-1", "ß",
    ],
    "yaml": [
        "&a ", "*a", "*b", "<<: *a", "!!python/object/apply:os.system ['x']", "!!binary", "!!set {a}", "!!omap",
        "!a ", "? ", ": ", "- ", "|", ">", "---\n", "...\n", "%YAML 9.9\n", "%TAG ! x\n", "{", "}", "[", "]", "@",
        "`", "0o7", "0b1", "1:30", ".inf", ".nan", "~", "2024-01-01", "2024-13-99", "2001-12-14t21:59:43.10-05:00",
        "=", "<<", "!!float x", "!!int ''", "!!timestamp x", "&a [*a]", "&a {a: *a}", "[" * 600, "{a: " * 600,
        "? [a]\n: b", "1" * 5000, "on", "1e3",
    ],
    "json": [
        "{", "}", "[", "]", ":", ",", "NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 3000, '"\\ud800"',
        '"\\u0000"', "null", "true", '{"a":', "//", "\\",
    ],
}
_INTEGERS = [
    0, 1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1,
]
_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e308, 1e-320, 10**19, -(10**19), 10**400, "", "a", " ", "1",
    "\x00", "é", "\u2028", "\ud800", "a\nb", "/etc/passwd", "../x", "x" * 300, "TransE", "uniform", "text", [], {},
    [[]], [1], ["a"], [None], {"a": 1}, {"": {}}, {"name": "uniform"}, [0] * 50, float("nan"), float("inf"),
]
# fmt: on


def mutate(data: bytes, kind: str, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """A changed file.

    Args:
        data: the valid file.
        kind: its format: the ending of its name.
        random: what draws the changes.
        others: further files of the kind, of which parts may be taken.
    """
    inner = _STRUCTURED.get(kind)
    for _ in range(1 + _geometric(random)):
        # Of what has a structure that still holds, three times in four.
        if inner is not None and random.random() < 0.75:
            try:
                data = inner(data, random, others)
                continue
            except Exception:  # What was changed before has left the structure: then by bytes.
                pass
        data = _bytes(data, random, others)
    return data


def _geometric(random: Random) -> int:
    n = 0
    while n < 5 and random.random() < 0.4:
        n += 1
    return n


def _place(n: int, random: Random) -> tuple[int, int]:
    """A span of a sequence, short ones first."""
    start = random.randrange(n + 1)
    return start, min(n, start + random.choice([0, 1, 1, 2, 4, 8, 16, 64, n]))


def _bytes(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    start, end = _place(len(data), random)
    way = random.randrange(10)
    if way == 0:
        return data[:start]
    if way == 1:
        return data[start:] if random.random() < 0.3 else data[:start] + data[end:]
    if way == 2 and data:
        at = random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
    if way == 3:
        return data[:start] + random.choice(_BYTES) + data[random.choice([start, end]) :]
    if way == 4:
        return data[:end] + data[start:end] * random.choice([1, 2, 50]) + data[end:]
    if way == 5 and others:
        other = random.choice(others)
        a, b = _place(len(other), random)
        return data[:start] + other[a:b] + data[end:]
    if way == 6:
        form = random.choice(["<I", ">I", "<Q", ">Q", "<H", ">H", "B"])
        value = random.choice(_INTEGERS) % (1 << (8 * struct.calcsize(form)))
        return data[:start] + struct.pack(form, value) + data[start + struct.calcsize(form) :]
    if way == 7:
        return data[:start] + random.randbytes(end - start) + data[end:]
    if way == 8:
        return data[:start] + random.choice(_TEXTS).encode() + data[random.choice([start, end]) :]
    return data[:start] + bytes(end - start) + data[end:]


def _text(kind: str) -> Callable[[bytes, Random, Sequence[bytes]], bytes]:
    tokens = [token.encode() for token in [*_TEXTS, *_OF_KIND.get(kind, []) * 3]]

    def change(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
        lines = data.split(b"\n")
        at = random.randrange(len(lines))
        way = random.randrange(9)
        if way == 0:
            return data.replace(b"\n", random.choice([b"\r\n", b"\r", b"\n\n", b"\t", b""]), random.choice([1, 3, -1]))
        if way == 1:
            lines.insert(at, random.choice([random.choice(tokens), random.choice(lines)]))
        elif way == 2:
            del lines[at]
        elif way == 3:
            random.shuffle(lines)
        elif way == 4:
            lines[at] = random.choice(tokens)
        elif way == 5 and others:
            lines.insert(at, random.choice(random.choice(others).split(b"\n")))
        elif way == 6:
            return data.removesuffix(b"\n") if random.random() < 0.5 else data + random.choice(tokens)
        else:
            between = random.choice([b"\t", b"\t", b",", b" ", b":"])
            fields = lines[at].split(between)
            cell = random.randrange(len(fields))
            edit = random.randrange(6)
            if edit == 0:
                del fields[cell]
            elif edit == 1:
                fields.insert(cell, random.choice(tokens))
            elif edit == 2:
                fields[cell] += random.choice(tokens)
            elif edit == 3:
                fields[cell] = random.choice(random.choice(lines).split(between))
            else:
                fields[cell] = random.choice(tokens)
            lines[at] = between.join(fields)
        return b"\n".join(lines)

    return change


def value(found: Any, random: Random) -> Any:
    """A changed value of JSON or YAML: one of the values within it is another one, missing, or of another name."""
    containers: list[Any] = []

    def walk(inner: Any) -> None:
        if isinstance(inner, dict | list) and inner:
            containers.append(inner)
            for part in [*(inner.values() if isinstance(inner, dict) else inner)][:200]:
                walk(part)

    found = json.loads(json.dumps(found))
    walk(found)
    if not containers or random.random() < 0.03:
        return random.choice(_VALUES)
    inner = random.choice(containers)
    key = random.choice([*inner]) if isinstance(inner, dict) else random.randrange(len(inner))
    new = random.choice(_VALUES)
    if isinstance(inner[key], int | float) and random.random() < 0.3:
        new = random.choice([-1, 0.5, 2, 1000]) * inner[key]
    way = random.randrange(6)
    if way == 0:
        del inner[key]
    elif way == 1 and isinstance(inner, dict):
        inner[random.choice([f"{key}x", "", "name", "é", str(key).upper(), *map(str, _INTEGERS)])] = inner.pop(key)
    elif way == 2 and isinstance(inner, list):
        inner.insert(key, new)
    elif way == 3:
        inner[key] = random.choice(containers) if random.random() < 0.2 else [inner[key]]
        found = json.loads(json.dumps(found, check_circular=False)) if not _circular(found) else inner[key][:0]
    else:
        inner[key] = new
    return found


def _circular(found: Any) -> bool:
    try:
        json.dumps(found)
    except (ValueError, RecursionError):
        return True
    return False


def _json(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    if random.random() < 0.3:
        return _text("json")(data, random, others)
    return json.dumps(value(json.loads(data), random)).encode()


def _json_lines(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    if random.random() < 0.4:
        return _text("json")(data, random, others)
    lines = data.splitlines()
    at = random.randrange(len(lines))
    lines[at] = json.dumps(value(json.loads(lines[at]), random)).encode()
    return b"\n".join(lines) + b"\n"


def _yaml(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    if random.random() < 0.4:
        return _text("yaml")(data, random, others)
    import yaml

    return yaml.safe_dump(value(yaml.safe_load(data), random), allow_unicode=True).encode("utf-8", "surrogatepass")


def _gzip(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    inner = [gzip.decompress(other) for other in others]
    return gzip.compress(mutate(gzip.decompress(data), "tsv", random, inner), 1, mtime=0)


def _safetensors(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.3:
        at = random.randrange(len(body))
        size = random.choice([1, 2, 4])
        special = random.choice([b"\x00\x7c", b"\x00\x00\x80\x7f", b"\xff\xff\xff\xff", b"\x02", b"\x00"])
        body = body[:at] + special[:size].ljust(size, b"\0") + body[at + size :]
    else:
        header = _json(header, random, others)
    return (
        struct.pack("<Q", len(header)) + header + body[: random.choice([len(body), len(body), max(0, len(body) - 1)])]
    )


def _npy(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    (length,) = struct.unpack("<H", data[8:10])
    header, body = data[10 : 10 + length], data[10 + length :]
    types = [b"<f8", b"|O", b">f4", b"<i8", b"<U4", b"|V8", b"<c8", b"<M8[s]", b"|b1"]
    sizes = [b"(0, ", b"(-1, ", b"(99999999999, ", b"(" * 300]
    swaps = [(b"False", b"True"), (b"<f4", random.choice(types)), (b"(", random.choice(sizes)), (b"'shape'", b"'form'")]
    old, new = random.choice(swaps)
    header = header.replace(old, new) if random.random() < 0.7 else _text("json")(header, random, others)
    return data[:8] + struct.pack("<H", len(header) % 2**16) + header + body


def _zip(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice([*members])
    way = random.randrange(6)
    if way == 0:
        members.pop(name)
    elif way == 1:
        members[random.choice(["../x", "/x", "", name.upper(), "a" * 300, "é.npy"])] = members.pop(name)
    else:
        members[name] = mutate(members[name], name.rpartition(".")[2], random, [*members.values()])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def _png(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    n = random.randrange(len(chunks))
    name, content = chunks[n]
    way = random.randrange(4)
    if way == 0:
        chunks.insert(n, chunks[random.randrange(len(chunks))])
    elif way == 1:
        kinds = [b"tRNS", b"PLTE", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"gAMA"]
        chunks.insert(n, (random.choice(kinds), random.randbytes(random.choice([0, 1, 6, 30]))))
    elif name == b"IDAT" and random.random() < 0.7:
        chunks[n] = name, zlib.compress(_bytes(zlib.decompress(content), random, ()))
    else:
        chunks[n] = name, _bytes(content, random, ())
    packed = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(packed)


_STRUCTURED: dict[str, Callable[[bytes, Random, Sequence[bytes]], bytes]] = {
    **dict.fromkeys(("tsv", "txt", "csv", "dict", "entities", "set"), _text("table")),
    **dict.fromkeys(("nt", "nq", "ttl", "trig", "rdf"), _text("rdf")),
    "json": _json,
    "jsonl": _json_lines,
    "yaml": _yaml,
    "gz": _gzip,
    "safetensors": _safetensors,
    "npy": _npy,
    **dict.fromkeys(("npz", "pth", "zip"), _zip),
    "png": _png,
}
