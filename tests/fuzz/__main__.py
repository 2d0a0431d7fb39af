"""Fuzz the readers for as many inputs as wanted: `PYTHONPATH=tests python -m fuzz --inputs 1000000 --json counts.json`.

Each target is read in processes of its own, so that a crash is a fault of one input; what is found is printed as JSON.
`--target NAME --only NUMBER` reads one input again and shows what happens; `--keep FOLDER` keeps its files.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzz.harness import Count, Place, changed, fuzz, judge, summary
from fuzz.targets import make_run_targets, make_targets

CHUNK = 20_000
"""Inputs of a process; what libraries keep for ever does not add up."""
MEMORY = 8 * 2**30
"""Bytes of address space that a reader may add to what the process begins with."""
WEIGHT = {
    "pictures": 100,
    "modality": 75,
    "records": 75,
    "triples": 75,
    "arrays": 50,
    "unpack": 20,
    "negatives": 15,
    "entities": 15,
    "csv": 12,
    "rdf": 12,
    "candidates": 10,
    "parquet": 10,
    "tsv": 8,
    "openke": 5,
    "settings": 5,
    "links": 5,
    "config": 4,
    "ids": 2,
    "mmrns": 2,
    "numbers": 2,
    "run": 2,
    "checkpoint": 2,
}
"""How large a share of the inputs a target has: 1 where it is not named, which is for what is slow."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only these")
    parser.add_argument("--only", type=int, help="read the input of this number again")
    parser.add_argument("--keep", type=Path, help="with --only, keep the files here")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--json", type=Path, help="write the counts here, too, as they grow")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.target or [*make_targets(), "run", "checkpoint"]
    if given.only is not None:
        again(names[0], given.seed, given.only, given.keep)
    elif given.worker is not None:
        work(names[0], given.seed, range(given.first, given.first + given.inputs), given.worker)
    else:
        found = supervise(names, given.seed, given.first, given.inputs, given.json)
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        sys.exit(1 if found["faults"] else 0)


def target_of(name: str) -> Any:
    found = make_targets()
    return found[name] if name in found else make_run_targets()[name]


def again(name: str, seed: int, number: int, keep: Path | None) -> None:
    target = target_of(name)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(target, (keep or Path(folder)) / "input")
        valid, files = changed(target, seed, number)
        place.lay(valid, files, number)
        sys.stdout.write(f"changed: {sorted(files)}\n")
        verdict, detail = judge(target, place.folder)
        sys.stdout.write(f"{verdict}\n{detail}\n")


def work(name: str, seed: int, numbers: range, folder: Path) -> None:
    """Read the inputs of these numbers, and write which is being read, and in the end the counts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    target = target_of(name)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    with (folder / "number").open("wb", buffering=0) as file:

        def told(number: int) -> None:
            os.pwrite(file.fileno(), number.to_bytes(8, "little"), 0)

        count = fuzz(target, folder, iter(numbers), seed, told)
    (folder / "count.json").write_text(json.dumps(vars(count)))


def supervise(names: list[str], seed: int, first: int, inputs: int, path: Path | None) -> dict[str, Any]:
    counts = {name: Count() for name in names}
    weights = {name: WEIGHT.get(name, 1) for name in names}
    shares = {name: max(1, inputs * weights[name] // sum(weights.values())) for name in names}
    for name in names:
        number, end = first, first + shares[name]
        while number < end:
            number = one_process(counts[name], name, seed, number, min(end, number + CHUNK))
            if path is not None:
                path.write_text(json.dumps(summary(counts), indent=1))
        c = counts[name]
        rate = c.inputs / c.seconds if c.seconds else 0
        sys.stderr.write(
            f"{time.strftime('%H:%M:%S')} {name}: {c.inputs:,} inputs, {c.refused:,} refused, "
            f"{sum(f['times'] for f in c.faults.values()):,} faults of {len(c.faults)} kinds, {rate:,.0f} a second\n"
        )
    return summary(counts)


def one_process(count: Count, name: str, seed: int, first: int, end: int) -> int:
    """Read inputs in another process; returns the number to go on from, after a crash the one behind it."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=place) as folder:
        command = [sys.executable, "-m", "fuzz", "--worker", folder, "--target", name, "--seed", str(seed)]
        command += ["--first", str(first), "--inputs", str(end - first)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": folder})
        counted, reading = Path(folder) / "count.json", Path(folder) / "number"
        if done.returncode == 0 and counted.exists():
            found = Count(**json.loads(counted.read_text()))
            for verdict, fault in found.faults.items():
                known = count.faults.setdefault(verdict, fault | {"times": 0})
                known["times"] += fault["times"]
            count.inputs += found.inputs
            count.read += found.read
            count.refused += found.refused
            count.seconds += found.seconds
            count.slowest = max(count.slowest, found.slowest)
            return end
        if done.returncode >= 0 or not reading.exists() or not reading.stat().st_size:
            raise SystemExit(f"{name}: {done.stderr}")
        crashed = int.from_bytes(reading.read_bytes(), "little")
        count.add(crashed, f"the process ends with {done.returncode}", done.stderr[-1000:])
        if crashed > first:
            # What came before it was not counted: once more, up to there.
            one_process(count, name, seed, first, crashed)
        return crashed + 1


if __name__ == "__main__":
    main()
