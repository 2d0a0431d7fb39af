"""Feature files: matched by name, mapped, masked; and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from mmrns.data.features import Features, Modality
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError, UsageError

NAMES = ["a", "b", 'the "c"', "d", "é"]
ENTITIES = Vocabulary(NAMES)


def write(folder: Path, names: list[str], values: Tensor, mask: Tensor, name: str = "m") -> Path:
    path = folder / f"{name}.safetensors"
    save_file({"values": values, "mask": mask}, path, metadata={"encoder": "none", "revision": "1"})
    path.with_suffix(".entities").write_text("".join(n + "\n" for n in names), encoding="utf-8")
    return path


def values_of(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Distinct non-zero values that float16 holds exactly."""
    return torch.arange(1, n * 6 + 1).reshape(n, 2, 3).to(dtype)


def all_true(n: int) -> Tensor:
    return torch.ones(n, 2, dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_are_matched_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    names = ["é", "nobody", "b", 'the "c"', "no one"]
    values, mask = values_of(5, dtype), all_true(5)
    mask[3, 1] = False
    modality = Modality.open(write(tmp_path, names, values, mask), ENTITIES)
    assert (modality.tokens, modality.width, modality.covered) == (2, 3, 3)
    assert modality.values.dtype == dtype
    assert modality.row.tolist() == [-1, 2, -1, 3, 0]
    assert list(modality.unmatched) == ["nobody", "no one"]
    assert modality.provenance == {"encoder": "none", "revision": "1"}
    found, present = modality.gather(torch.arange(5))
    assert found.dtype == torch.float32
    expected = torch.zeros(5, 2, 3)
    expected[1], expected[3, 0], expected[4] = values[2].float(), values[3, 0].float(), values[0].float()
    assert torch.equal(found, expected)
    assert present.tolist() == [[False, False], [True, True], [False, False], [True, False], [True, True]]


def test_gather_takes_any_order_and_repeats(tmp_path: Path) -> None:
    modality = Modality.open(write(tmp_path, NAMES, values_of(5), all_true(5)), ENTITIES)
    every, _ = modality.gather(torch.arange(5))
    ids = torch.tensor([3, 0, 3, 4])
    found, present = modality.gather(ids)
    assert torch.equal(found, every[ids])
    assert present.all()
    none, no_mask = modality.gather(torch.empty(0, dtype=torch.int64))
    assert none.shape == (0, 2, 3)
    assert no_mask.shape == (0, 2)


def test_gather_gives_a_copy(tmp_path: Path) -> None:
    modality = Modality.open(write(tmp_path, NAMES, values_of(5), all_true(5)), ENTITIES)
    before, _ = modality.gather(torch.arange(5))
    changed, mask = modality.gather(torch.arange(5))
    changed.fill_(-1)
    mask.fill_(False)
    after, present = modality.gather(torch.arange(5))
    assert torch.equal(before, after)
    assert present.all()


def test_absent_tokens_are_zero_whatever_the_file_holds(tmp_path: Path) -> None:
    values, mask = values_of(5), all_true(5)
    values[2, 1] = float("nan")
    mask[2, 1] = False
    modality = Modality.open(write(tmp_path, NAMES, values, mask), ENTITIES)
    found, _ = modality.gather(torch.arange(5))
    row = ENTITIES.id(NAMES[2])
    assert torch.isfinite(found).all()
    assert found[row, 1].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(found[row, 0], values[2, 0])


def test_values_that_nobody_asks_for_are_not_read() -> None:
    class Recording(torch.Tensor):
        asked: list[Tensor]

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is torch.Tensor.index_select:
                args[0].asked.append(args[2])
            elif func not in (torch.Tensor.shape.__get__, torch.Tensor.dtype.__get__):  # pyright: ignore
                raise AssertionError(f"{func} reads all values")
            return super().__torch_function__(func, types, args, kwargs or {}).as_subclass(Tensor)  # pyright: ignore

    values = values_of(5)
    modality = Modality(values, all_true(5), torch.tensor([4, -1, 0, 1, 2]))
    recording = values.as_subclass(Recording)
    recording.asked = []
    object.__setattr__(modality, "values", recording)
    found, _ = modality.gather(torch.tensor([4, 0]))
    assert torch.equal(found, values[[2, 4]])
    assert [rows.tolist() for rows in recording.asked] == [[2, 4]]


@given(st.permutations(range(5)), st.integers(0, 5))
def test_order_of_the_file_is_irrelevant(tmp_path_factory: pytest.TempPathFactory, order: list[int], kept: int) -> None:
    folder = tmp_path_factory.mktemp("features")
    values, mask = values_of(5), torch.arange(10).reshape(5, 2) % 3 > 0
    order = order[:kept] or [0]
    names = [NAMES[i] for i in order]
    shuffled = Modality.open(write(folder, names, values[order], mask[order], "shuffled"), ENTITIES)
    plain = Modality.open(
        write(folder, [NAMES[i] for i in sorted(order)], values[sorted(order)], mask[sorted(order)], "plain"), ENTITIES
    )
    for a, b in zip(shuffled.gather(torch.arange(5)), plain.gather(torch.arange(5)), strict=True):
        assert torch.equal(a, b)
    found, present = shuffled.gather(torch.tensor([ENTITIES.id(n) for n in names]))
    assert torch.equal(present, mask[order])
    assert torch.equal(found, values[order] * mask[order][..., None])
    assert shuffled.covered == len(order)


@pytest.mark.parametrize(
    ("names", "line", "message"),
    [
        (["a", "b"], 3, "2 lines but m.safetensors has 3 rows; give one entity a row"),
        (["a", "b", "d", "é"], 4, "4 lines but m.safetensors has 3 rows; give one entity a row"),
        ([], 1, "0 lines but m.safetensors has 3 rows; give one entity a row"),
        (["a", "b", "a"], 3, "entity 'a' is listed twice; keep one row"),
        (
            ["x", "y", "z"],
            1,
            "none of its 3 entities is in the graph (first: 'x'); use the entity names of the triples",
        ),
    ],
)
def test_listing_that_does_not_fit(tmp_path: Path, names: list[str], line: int, message: str) -> None:
    path = write(tmp_path, names, values_of(3), all_true(3))
    with pytest.raises(DataError) as caught:
        Modality.open(path, ENTITIES)
    assert str(caught.value) == f"{path.with_suffix('.entities')}:{line}: {message}"


def test_listing_that_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, NAMES, values_of(5), all_true(5))
    path.with_suffix(".entities").unlink()
    with pytest.raises(DataError, match=r"m\.entities: is missing; list the entity of each row of m\.safetensors"):
        Modality.open(path, ENTITIES)


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (torch.zeros(5, 3), all_true(5), "values are float32 [5, 3]; store float16 or float32 of shape [n, L, D]"),
        (values_of(5, torch.float64), all_true(5), "values are float64 [5, 2, 3]; store float16 or float32 of shape"),
        (values_of(5, torch.int64), all_true(5), "values are int64 [5, 2, 3]; store float16 or float32 of shape"),
        (values_of(0), all_true(0), "values are float32 [0, 2, 3]; store float16 or float32 of shape [n, L, D]"),
        (torch.zeros(5, 0, 3), torch.ones(5, 0).bool(), "values are float32 [5, 0, 3]; store float16 or float32"),
        (values_of(5), torch.ones(5, 2), "mask is float32 [5, 2]; store bool of shape [5, 2]"),
        (values_of(5), torch.ones(5, 3).bool(), "mask is bool [5, 3]; store bool of shape [5, 2]"),
        (values_of(5), torch.ones(5).bool(), "mask is bool [5]; store bool of shape [5, 2]"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, values: Tensor, mask: Tensor, message: str) -> None:
    path = write(tmp_path, NAMES, values, mask)
    with pytest.raises(DataError) as caught:
        Modality.open(path, ENTITIES)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_files_that_are_not_feature_files(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"values": values_of(5)}, path)
    with pytest.raises(DataError, match="holds no tensor 'mask'; write `values` and `mask`"):
        Modality.open(path, ENTITIES)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="is not a readable safetensors file"):
        Modality.open(path, ENTITIES)
    with pytest.raises(DataError, match="is not a readable safetensors file"):
        Modality.open(tmp_path / "absent.safetensors", ENTITIES)


def test_features_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, NAMES, values_of(5), all_true(5), "text")
    write(tmp_path, NAMES[:2], values_of(2) + 100, all_true(2), "image")
    features = Features.open(tmp_path, ENTITIES)
    assert list(features) == ["image", "text"]
    assert len(features) == 2
    assert "image" in features
    assert "sound" not in features
    for name in features:
        for a, b in zip(
            features.gather(name, torch.tensor([1, 0])), features[name].gather(torch.tensor([1, 0])), strict=True
        ):
            assert torch.equal(a, b)
    with pytest.raises(UsageError, match=r"unknown modality 'txt'; did you mean 'text'\? known: image, text"):
        features["txt"]


def test_no_folder_means_no_features(tmp_path: Path) -> None:
    features = Features.open(tmp_path / "features", ENTITIES)
    assert not len(features)
    with pytest.raises(UsageError, match=r"unknown modality 'image'; known: none"):
        features["image"]


def test_the_mapping_given_is_copied() -> None:
    modality = Modality(values_of(1), all_true(1), torch.tensor([0]))
    given_mapping = {"a": modality}
    features = Features(given_mapping)
    given_mapping["b"] = modality
    assert list(features) == ["a"]


def test_a_row_without_a_token_covers_nobody(tmp_path: Path) -> None:
    mask = all_true(5)
    mask[1] = False
    modality = Modality.open(write(tmp_path, NAMES, values_of(5), mask), ENTITIES)
    assert modality.covered == 4
    assert modality.present.tolist() == [name != NAMES[1] for name in ENTITIES]


def many(n: int = 1000) -> Modality:
    """A modality of 900 of 1,000 entities, 100 rows of them without a token."""
    row = torch.arange(n)
    row[: n // 10] = -1
    mask = torch.ones(n, 2, dtype=torch.bool)
    mask[-n // 10 :] = False
    return Modality(torch.ones(n, 2, 3), mask, row)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999, 1.0])
def test_dropping_leaves_the_others_as_they_are(fraction: float) -> None:
    whole = many()
    part = whole.drop(fraction, 7)
    assert part.covered == whole.covered - round(fraction * whole.covered)
    assert not (part.present & ~whole.present).any()
    kept = part.present.nonzero().squeeze(1)
    for a, b in zip(part.gather(kept), whole.gather(kept), strict=True):
        assert torch.equal(a, b)
    values, mask = part.gather((~part.present).nonzero().squeeze(1))
    assert not values.any()
    assert not mask.any()
    assert whole.covered == 800


def test_what_is_dropped_is_a_function_of_the_seed_and_grows_with_the_fraction() -> None:
    whole = many()
    few, same, more, other = (whole.drop(f, seed).present for f, seed in [(0.3, 7), (0.3, 7), (0.5, 7), (0.3, 8)])
    assert torch.equal(few, same)
    assert not (more & ~few).any()
    assert not torch.equal(few, other)


def test_modalities_are_dropped_independently() -> None:
    features = Features({"a": many(), "b": many()}).drop(0.5, 0)
    both = (features["a"].present & features["b"].present).sum()
    assert features["a"].covered == features["b"].covered == 400
    assert 150 < both < 250  # 200 are expected, with a standard deviation of 7


def modality(n: int, missing: Sequence[int] = (), width: int = 3) -> Modality:
    """Entity i has the tokens [i, i, ...], two of them or, where i is odd, one; rows are in reverse order."""
    have = [i for i in reversed(range(n)) if i not in missing]
    values = torch.tensor(have, dtype=torch.float16)[:, None, None].expand(-1, 2, width).clone()
    mask = torch.ones(len(have), 2, dtype=torch.bool)
    mask[:, 1] = torch.tensor([i % 2 == 0 for i in have])
    row = torch.full((n,), -1)
    row[torch.tensor(have)] = torch.arange(len(have))
    return Modality(values, mask, row)


@given(st.integers(2, 30), st.integers(0, 5), st.integers(0, 9))
def test_shuffled_tokens_are_those_of_others(n: int, missing: int, seed: int) -> None:
    true = modality(n, range(min(missing, n - 2)))
    found = true.altered("shuffled", seed, "text")
    assert torch.equal(found.present, true.present)
    have = true.present.nonzero().squeeze(1)
    values, mask = found.gather(have)
    given = values[:, 0, 0].long()
    assert (given != have).all()
    assert sorted(given.tolist()) == have.tolist()
    assert torch.equal(mask.sum(1), 2 - given % 2)
    assert torch.equal(true.altered("shuffled", seed, "text").row, found.row)


def test_noise_has_the_mean_and_deviation_of_the_tokens_and_the_same_places() -> None:
    true = modality(3000, [5, 2000], width=2)
    found = true.altered("noise", 0, "text")
    assert torch.equal(found.present, true.present)
    ids = torch.arange(3000)
    (values, mask), (before, there) = found.gather(ids), true.gather(ids)
    assert torch.equal(mask, there)
    for tokens, expected in ((values[mask], before[there]),):
        assert tokens.mean(0) == pytest.approx(expected.mean(0), rel=0.05)
        assert tokens.std(0) == pytest.approx(expected.std(0), rel=0.05)
    assert not torch.equal(values, before)
    # An entity's own, whoever else has some, and however many there are.
    fewer = modality(2990, [5, 7], width=2).altered("noise", 0, "text", entities=2990)
    again = modality(2990, [5], width=2).altered("noise", 0, "text")
    kept = torch.tensor([0, 6, 8, 1500, 2989])
    assert torch.allclose(fewer.gather(kept)[0], again.gather(kept)[0], rtol=0.05, atol=30)


@pytest.mark.parametrize("how", ["shuffled", 0.5, 1.0])
def test_entities_that_came_later_keep_their_tokens(how: Any) -> None:
    found, alone = modality(20).altered(how, 1, "text", entities=16), modality(16).altered(how, 1, "text")
    later = torch.arange(16, 20)
    assert torch.equal(found.gather(later)[0], modality(20).gather(later)[0])
    first = torch.arange(16)
    assert torch.equal(found.gather(first)[0], alone.gather(first)[0])
    assert alone.covered == {"shuffled": 16, 0.5: 8, 1.0: 0}[how]


def test_a_share_that_is_lost_is_what_drop_takes() -> None:
    true = modality(20, [3])
    assert torch.equal(true.altered(0.3, 2, "text").row, true.drop(0.3, 2, "text").row)
    features = Features({"text": true, "image": modality(20)})
    found = features.altered({"image": 1.0}, 0)
    assert (found["text"], found["image"].covered) == (true, 0)
    with pytest.raises(UsageError, match="unknown modality 'txt'; did you mean 'text'"):
        features.altered({"txt": 1.0}, 0)


def test_a_part_reads_the_rows_of_its_entities_where_they_are() -> None:
    values, row = values_of(4), torch.tensor([3, -1, 0, 1])
    whole = Features({"m": Modality(values, all_true(4), row)})
    ids = torch.tensor([3, 1, 0])
    own = whole.part(ids, torch.device("cpu"), 8192)["m"]
    assert own.values.data_ptr() == values.data_ptr()
    for found, expected in zip(own.gather(torch.arange(3)), whole.gather("m", ids), strict=True):
        assert torch.equal(found, expected)
    taken = own.taken()
    assert taken.values.tolist() == values[[1, 3]].tolist()
    assert taken.row.tolist() == [0, -1, 1]
    assert torch.equal(taken.gather(torch.arange(3))[0], own.gather(torch.arange(3))[0])


def test_a_device_has_the_rows_of_a_part_alone_if_there_is_room() -> None:
    row = torch.arange(-1, 2**16)
    values = torch.zeros(1, 2, 4).expand(2**16, -1, -1)  # 2 MiB, were it in memory
    whole = Features({"m": Modality(values, torch.ones(1, 2, dtype=torch.bool).expand(2**16, -1), row)})
    ids, meta = torch.arange(2**15 + 1), torch.device("meta")
    there = whole.part(ids, meta, 1)["m"]
    assert there.values.device == meta
    assert len(there.values) == 2**15
    assert whole.part(torch.arange(2**15 + 2), meta, 1)["m"].values.device.type == "cpu"
