"""Messages, names to classes, random streams."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrns.errors import DataError, Diverged, MmrnsError, Note, OutOfMemory, UsageError, memory_told, nearest, note
from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.scorers import Scorer
from mmrns.registry import Named, Registry, register
from mmrns.rng import BITS, among, below, generator, numpy_generator, random_bits, seeded, stream_seed
from mmrns.samplers.base import Sampler
from mmrns.samplers.uniform import Uniform
from mmrns.training.callbacks import Callback


def test_data_error_is_one_line_naming_place_and_remedy() -> None:
    error = DataError(Path("a/train.tsv"), "2 columns", "mend it", 7)
    assert str(error) == "a/train.tsv:7: 2 columns; mend it"
    assert (error.where, error.line, error.message, error.remedy) == (Path("a/train.tsv"), 7, "2 columns", "mend it")
    assert str(DataError("a", "is missing", "add it")) == "a: is missing; add it"


_TOLD = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (RuntimeError(f"{_TOLD}800000000 bytes. Error code 12 (Cannot allocate memory)"), "763 MiB"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "2.00 GiB"),
        (MemoryError("Unable to allocate 1.5 MiB for an array with shape (1,)"), "1.5 MiB"),
        (MemoryError(), None),
        (OSError(12, "Cannot allocate memory"), None),
        (RuntimeError("std::bad_alloc"), None),
    ],
)
def test_memory_that_cannot_be_had_is_told_whoever_asked(error: Exception, asked: str | None) -> None:
    def read() -> None:
        try:
            raise error
        except Exception as cause:
            raise DataError("a", "cannot be read", "write it again") from cause

    def fail() -> None:
        raise error

    for act in (fail, read):
        with pytest.raises(OutOfMemory, match=f"^out of memory(, where {asked} more)?") as caught, memory_told():
            act()
        assert (asked is None) == ("where" not in str(caught.value))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("sizes differ"), OSError(2, "No such file"), DataError("a", "b", "c")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_told():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [DataError(Path("a"), "is bad", "mend it", 7), UsageError("no"), Diverged("nan")])
def test_an_error_comes_back_from_another_process(error: MmrnsError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.__dict__) == (type(error), str(error), error.__dict__)


def test_exit_codes() -> None:
    assert (MmrnsError.exit_code, DataError.exit_code, UsageError.exit_code) == (1, 1, 2)
    assert issubclass(DataError, MmrnsError)
    assert issubclass(UsageError, MmrnsError)


@pytest.mark.parametrize(
    ("name", "limit", "hint"),
    [
        ("transe", 1, "; did you mean 'TransE'?"),
        ("TransE", 1, "; did you mean 'TransE'?"),
        ("Trans", 2, "; did you mean 'TransE' or 'TransD'?"),
        ("zzz", 3, ""),
    ],
)
def test_nearest(name: str, limit: int, hint: str) -> None:
    assert nearest(name, ["TransE", "TransD", "RotatE"], limit) == hint


def test_nearest_of_nothing() -> None:
    assert nearest("x", []) == ""


def test_making_a_registry_imports_nothing() -> None:
    code = (
        "import sys; from mmrns.registry import Registry; Registry('sampler', 'mmrns.samplers'); "
        "assert not any(m.startswith('mmrns.samplers') or m == 'torch' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_gives_its_class() -> None:
    for registry in (Sampler.registry, Scorer.registry, Embedder.registry, Loss.registry, Callback.registry):
        for name in registry.names():
            cls = registry.get(name)
            # Other tests register classes of their own, which come after ours.
            if not cls.__module__.startswith("mmrns."):
                continue
            assert cls.__module__.startswith(registry.package)
            assert registry.name_of(cls) == name
            assert registry.get(cls) is cls
    assert {"TransE", "DistMult", "RotatE"} <= set(Scorer.registry.names())


@pytest.mark.parametrize(
    ("registry", "wrong", "meant"), [(Sampler.registry, "unifo", "uniform"), (Scorer.registry, "transe", "TransE")]
)
def test_an_unknown_name_gets_a_hint_and_the_known_ones(registry: Registry[Any], wrong: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{meant}'\\?") as caught:
        registry.get(wrong)
    assert all(name in str(caught.value) for name in registry.names())


def test_a_class_of_ones_own_has_a_name_or_is_found_by_its_path() -> None:
    class Mine(Uniform):
        pass

    path = f"{__name__}:test_a_class_of_ones_own_has_a_name_or_is_found_by_its_path.<locals>.Mine"
    assert Sampler.registry.name_of(Mine) == path
    assert Sampler.registry.get(path) is Mine
    assert path not in Sampler.registry.names()
    assert Sampler.registry.get("mmrns.samplers.uniform:Uniform") is Uniform


def test_names_are_taken_once_and_by_the_right_kind() -> None:
    class Base(Named):
        registry = Registry[Any]("thing", "mmrns.errors")

    class First(Base, name="first"):
        pass

    assert Base.registry.names() == ["first"]
    assert register(First, "again") is First
    assert Base.registry.names() == ["first", "again"]
    with pytest.raises(UsageError, match=r"the thing 'first' is .*First already"):

        class Second(Base, name="first"):
            pass

    with pytest.raises(UsageError, match="is no thing"):
        Base.registry.get(Uniform)
    with pytest.raises(UsageError, match="is no thing"):
        Base.registry.get("mmrns.samplers.uniform:Uniform")
    with pytest.raises(UsageError, match=r"no thing at 'mmrns\.nowhere:Uniform'"):
        Base.registry.get("mmrns.nowhere:Uniform")
    with pytest.raises(UsageError, match="can have no name here"):
        register(dict)


def test_a_class_that_a_notebook_defines_again_replaces_itself() -> None:
    class Base(Named):
        registry = Registry[Any]("thing", "mmrns.errors")

    def cell() -> type[Base]:
        class Mine(Base, name="mine"):
            pass

        return Mine

    cell()
    again = cell()
    assert Base.registry.get("mine") is again


def test_stream_seeds_are_63_bits_and_tell_purposes_apart() -> None:
    purposes = [(), ("a",), ("b",), ("a", 0), ("a", 1), ("a", "1"), ("a1",), (0, "a")]
    seeds = [stream_seed(s, *p) for s in (0, 1) for p in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)
    many = [stream_seed(0, "step", i) for i in range(2000)]
    assert len(set(many)) == 2000
    assert max(many) > 2**62 > min(many)


def test_stream_seed_does_not_depend_on_the_process() -> None:
    code = "from mmrns.rng import stream_seed; print(stream_seed(3, 'order', 5, 1))"
    output = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": h}, check=True, capture_output=True).stdout
        for h in ("1", "2")
    ]
    assert output[0] == output[1] == f"{stream_seed(3, 'order', 5, 1)}\n".encode()


def test_generators_repeat_and_differ_by_purpose() -> None:
    def torch_draw(*purpose: int | str) -> torch.Tensor:
        return torch.rand(8, generator=generator(0, *purpose))

    def numpy_draw(*purpose: int | str) -> np.ndarray:
        return numpy_generator(0, *purpose).random(8)

    assert torch.equal(torch_draw("a", 1), torch_draw("a", 1))
    assert not torch.equal(torch_draw("a", 1), torch_draw("a", 2))
    assert np.array_equal(numpy_draw("a", 1), numpy_draw("a", 1))
    assert not np.array_equal(numpy_draw("a", 1), numpy_draw("a", 2))


def test_generators_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "x"))
    numpy_generator(0, "x").random()
    assert torch.equal(before, torch.get_rng_state())


def test_seeded_is_a_stream_of_its_own_and_restores_the_state() -> None:
    before = torch.get_rng_state()
    with seeded(0, "init"):
        first = torch.rand(4)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    with seeded(0, "init"):
        again = torch.rand(4)
    with seeded(1, "init"):
        other = torch.rand(4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeded_restores_the_state_after_an_error() -> None:
    before = torch.get_rng_state()

    def fail() -> None:
        with seeded(0, "init"):
            torch.rand(1)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert torch.equal(before, torch.get_rng_state())


@given(st.lists(st.integers(0, 2**BITS - 1), min_size=1, max_size=8), st.integers(0, 2**36))
def test_below_is_exact(bits: list[int], n: int) -> None:
    assert below(torch.tensor(bits), n).tolist() == [b * n >> BITS for b in bits]
    assert below(torch.tensor(bits), torch.full((len(bits),), n)).tolist() == [b * n >> BITS for b in bits]


def test_random_bits_are_those_of_float64_numbers() -> None:
    # Draws are the same as when they were made from those.
    bits = random_bits(30, 7, stream=generator(3, "x"), device="cpu")
    numbers = torch.rand(30, 7, dtype=torch.float64, generator=generator(3, "x"))
    assert torch.equal(bits, (numbers * 2**BITS).long())


def test_random_bits_of_a_device_fill_the_whole_range(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other devices give no more than 32 bits at once: what the CPU does when it is taken for one of them.
    class Other(str):
        type = "other"

    monkeypatch.setattr(torch, "device", Other)
    bits = random_bits(4000, stream=generator(0, "x"), device="cpu")
    assert bits.dtype == torch.int64
    assert ((bits >= 0) & (bits < 2**BITS)).all()
    counts = torch.bincount(below(bits, 8), minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 7 + 5 * 14**0.5
    assert abs(float((bits & 1).float().mean()) - 0.5) < 5 * 0.5 / 4000**0.5


@given(st.text(alphabet=st.sampled_from("ab \t\n\r\v\f\x1c\x85\u2028\u2029"), min_size=1))
def test_errors_and_notes_are_one_line(text: str) -> None:
    for error in (DataError(f"x{text}y", text, "mend it", 3), UsageError(f"x{text}")):
        assert len(str(error).splitlines()) == 1
    with pytest.warns(Note) as said:
        note(f"x{text}")
    assert len(str(said[0].message).splitlines()) == 1


def test_among_is_a_random_share_that_each_id_knows_by_itself() -> None:
    ids = torch.arange(20_000)
    for share in (0.0, 0.1, 0.5, 1.0):
        found = among(ids, share, 3, "x", 7)
        assert float(found.float().mean()) == pytest.approx(share, abs=4.5 * (share * (1 - share) / 20_000) ** 0.5)
        assert torch.equal(among(ids.flip(0).reshape(10, -1), share, 3, "x", 7), found.flip(0).reshape(10, -1))
    # Two purposes agree no more often than chance has it, and runs of ids are as random as others.
    a, b = among(ids, 0.5, 3, "x", 7), among(ids, 0.5, 3, "x", 8)
    for same in (a == b, a[1:] == a[:-1], among(ids, 0.5, 4, "x", 7) == a):
        assert float(same.float().mean()) == pytest.approx(0.5, abs=4.5 * 0.5 / 20_000**0.5)
    # A smaller share is part of a larger one.
    assert (among(ids, 0.3, 3, "x", 7) <= a).all()
    counts = torch.stack([among(torch.arange(50), 0.2, 3, "x", step) for step in range(2000)]).sum(0)
    # 50 binomial counts; the 99.99 % quantile of chi-squared with 50 degrees of freedom is 94.
    assert float(((counts - 400) ** 2 / (400 * 0.8)).sum()) < 94
