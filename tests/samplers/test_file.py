from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.runs.build import build_trainer
from mmrns.runs.config import apply_settings, make_config
from mmrns.samplers.base import Sampler
from mmrns.samplers.file import File, average
from mmrns.samplers.frequency import Frequency
from mmrns.samplers.hard import Hard
from mmrns.samplers.mmrns.published import MmrnsPublished
from mmrns.samplers.uniform import Uniform
from mmrns.types import Batch, Negatives, PoolNegatives
from toy import write_negatives


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_negatives(tmp_path / "negatives.tsv")


def _sampler(toy: Dataset, path: Path, other: type[Sampler] = Uniform, **options: Any) -> tuple[File, Model]:
    graph = toy.graph
    model = Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))
    made = partial(other, graph, toy.features, model.spec)
    return File(graph, toy.features, model.spec, path=str(path), other=made, **options), model


def _own(toy: Dataset, path: Path) -> dict[tuple[int, int, int, bool], set[int]]:
    found: dict[tuple[int, int, int, bool], set[int]] = defaultdict(set)
    e, r = toy.graph.entities, toy.graph.relations
    for line in path.read_text().splitlines():
        a, b, c, x, _, z = line.split("\t")
        head = a != x
        found[e.id(a), r.id(b), e.id(c), head].add(e.id(x if head else z))
    return found


def test_draws_are_uniform_over_the_own_and_the_rest_is_the_others(toy: Dataset, path: Path) -> None:
    sampler, model = _sampler(toy, path, negatives=8000, share=0.25)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 3 == 0)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    alone = Uniform(toy.graph, toy.features, model.spec, negatives=8000).draw(model.lookup(batch), model, 0)
    own = _own(toy, path)
    assert negatives.ids is not None
    assert alone.ids is not None
    with_own = 0
    for b in range(len(batch)):
        key = int(batch.h[b]), int(batch.r[b]), int(batch.t[b]), bool(batch.head[b])
        if key not in own:
            assert torch.equal(negatives.ids[b], alone.ids[b])
            continue
        with_own += 1
        replaced = negatives.trace.replaced[b]
        assert replaced.sum() == 2000
        assert torch.equal(negatives.ids[b, ~replaced], alone.ids[b, ~replaced])
        counts = torch.bincount(negatives.ids[b, replaced], minlength=len(toy.graph.entities))
        assert set(counts.nonzero().flatten().tolist()) == own[key]
        expected = 2000 / len(own[key])
        assert ((counts[counts > 0] - expected) ** 2 / expected).sum() < 1 + 5 * 2**0.5
    assert 0 < with_own < len(batch)


def test_the_others_weights_are_kept_and_the_own_weigh_as_their_average(toy: Dataset, path: Path) -> None:
    sampler, model = _sampler(toy, path, Frequency, negatives=12, share=0.5)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 3 == 0)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    inner, replaced = negatives.trace.inner, negatives.trace.replaced
    assert inner.log_weight is not None
    assert negatives.log_weight is not None
    assert replaced.sum(1).unique().tolist() == [0, 6]
    torch.testing.assert_close(negatives.log_weight[~replaced], inner.log_weight[~replaced])
    mean = inner.log_weight.exp().mean(1, keepdim=True).expand_as(inner.log_weight)
    torch.testing.assert_close(negatives.log_weight.exp()[replaced], mean[replaced])


def test_average_of_the_weights_that_count() -> None:
    log_weight = torch.tensor([[math.log(2.0), math.log(4.0), 0.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(average(log_weight, mask), torch.tensor([math.log(3.0), 0.0]))
    torch.testing.assert_close(average(log_weight, None)[0], torch.tensor(math.log(7 / 3)))


def test_the_other_learns_from_its_own_draws_only(toy: Dataset, path: Path) -> None:
    seen: list[Negatives] = []

    class Watched(Uniform):
        def loss(self, lookup: Lookup, negatives: Negatives, *rest: Any) -> float:
            seen.append(negatives)
            return 0.0

    sampler, model = _sampler(toy, path, Watched, negatives=4, share=0.5)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 3 == 0)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    s_neg = model.score_against(model.lookup(batch), negatives)
    sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, 0)
    assert seen[0].mask is not None
    assert torch.equal(seen[0].mask, ~negatives.trace.replaced)


def test_a_side_without_negatives_in_the_file(toy: Dataset, tmp_path: Path) -> None:
    own = write_negatives(tmp_path / "all.tsv").read_text().splitlines()
    tails = [line for line in own if line.split("\t")[0] == line.split("\t")[3]]
    (tmp_path / "tails.tsv").write_text("\n".join(tails))
    sampler, model = _sampler(toy, tmp_path / "tails.tsv", negatives=4, share=1.0)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 3 == 0)
    replaced = sampler.draw(model.lookup(batch), model, 0).trace.replaced
    assert not replaced[batch.n_tail :].any()
    assert replaced[: batch.n_tail].any()


def test_options_of_the_other_sampler_are_a_section_of_its_own(toy: Dataset, path: Path) -> None:
    settings = [
        "sampler.name=file",
        f"sampler.path={path}",
        "sampler.negatives=6",
        "sampler.other.name=nscaching",
        "sampler.other.cache=7",
    ]
    config = make_config(apply_settings({}, settings))
    assert config.sampler.model_extra is not None
    section = config.sampler.model_extra["other"]
    assert section == {"name": "nscaching", "cache": 7, "candidates": 30, "temperature": 1.0, "lazy": 0}
    trainer = build_trainer(config, toy)
    other = trainer.sampler.get_submodule("other")
    assert (type(other).__name__, other.width, other.negatives) == ("NSCaching", 7, 6)
    assert "other.cache" in trainer.sampler.state_dict()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("other=nscache", "unknown sampler 'nscache'; did you mean 'nscaching'"),
        ("other.name=1-vs-all", "sampler.other.name: 1-vs-all cannot draw for another sampler"),
        ("other.name=file", "sampler.other.name: file cannot draw for another sampler"),
        ("other.cash=3", "unknown configuration key 'sampler.other.cash'"),
        ("other.negatives=3", "unknown configuration key 'sampler.other.negatives'"),
        ("other.filtered=4", "sampler.other.filtered: input should be a valid boolean"),
        ("other=3", "sampler.other"),
        ("share=0", "sampler.share: input should be greater than 0"),
        ("share=1.5", "sampler.share: input should be less than or equal to 1"),
    ],
)
def test_mistakes_are_named(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_config(apply_settings({"sampler": {"name": "file"}}, [f"sampler.{setting}"]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_path_the_remedy_is_named(toy: Dataset) -> None:
    with pytest.raises(UsageError, match=r"sampler\.path=FILE"):
        build_trainer(make_config({"sampler": {"name": "file"}}), toy)


class _Ascending(Uniform):
    """A list that all rows share, in order, shorter than asked for, with weights and a mask that go with the place."""

    width = 12

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        ids = torch.arange(self.width)
        shape = len(lookup.batch), self.width
        counts = (ids % 4 > 0).expand(shape)
        return PoolNegatives(ids, mask=counts, log_weight=(0.5 * ids.float()).expand(shape))


def test_what_stays_of_a_sorted_list_is_as_the_list(toy: Dataset, path: Path) -> None:
    """The mean id, and sums with importance weights, of what stays: those of the list, whatever its order."""
    sampler, model = _sampler(toy, path, _Ascending, negatives=64, share=0.25)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 3 == 0)
    lookup, steps = model.lookup(batch), 600
    kept: list[list[float]] = [[], [], []]
    for step in range(steps):
        drawn = sampler.draw(lookup, model, step)
        replaced = drawn.trace.replaced
        # A quarter of the 12 that there are, and not of the 64 that were asked for.
        assert replaced.sum(1).unique().tolist() == [0, 3]
        row = int(replaced.any(1).nonzero()[0])
        stays = ~replaced[row]
        assert drawn.mask is not None
        assert drawn.log_weight is not None
        assert torch.equal(drawn.mask[row, stays], torch.arange(12)[stays] % 4 > 0)
        assert drawn.mask[row, ~stays].all()
        counts, weight = stays & drawn.mask[row], drawn.log_weight[row].exp()
        kept[0].append(float(drawn.ids[row, stays].float().mean()))
        kept[1].append(float(weight[counts].sum()))
        # Each negative of the file weighs as a counting draw of the list on average.
        kept[2].append(float(weight[~stays].sum()))
    ids = torch.arange(12)
    weights = (0.5 * ids.float()).exp()[ids % 4 > 0]
    for found, expected in zip(kept, (5.5, 0.75 * weights.sum(), 3 * weights.mean()), strict=True):
        values = torch.tensor(found).double()
        assert abs(values.mean() - expected) <= 5 * values.std() / steps**0.5 + 1e-4 * expected


def test_what_stays_of_the_hardest_is_no_easier(toy: Dataset, path: Path) -> None:
    sampler, model = _sampler(toy, path, Hard, negatives=10, share=0.5)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 3 == 0)
    lookup = model.lookup(batch)
    columns = torch.zeros(10)
    for step in range(400):
        replaced = sampler.draw(lookup, model, step).trace.replaced
        columns += replaced[replaced.any(1)][0]
    # 200 of 400, with a variance of 100.
    assert ((columns - 200).abs() < 5 * 10).all()


@pytest.mark.parametrize(("width", "share", "own"), [(12, 0.5, 6), (3, 0.5, 2), (1, 0.2, 1), (5, 1.0, 5), (9, 0.3, 3)])
def test_the_share_is_of_what_the_other_gives(
    toy: Dataset, path: Path, monkeypatch: pytest.MonkeyPatch, width: int, share: float, own: int
) -> None:
    monkeypatch.setattr(_Ascending, "width", width)
    sampler, model = _sampler(toy, path, _Ascending, negatives=64, share=share)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 3 == 0)
    replaced = sampler.draw(model.lookup(batch), model, 0).trace.replaced
    assert replaced.shape == (20, width)
    assert replaced.sum(1).unique().tolist() == [0, own]


def test_the_published_samplers_loss_takes_what_was_replaced_as_not_drawn(toy: Dataset, path: Path) -> None:
    sampler, model = _sampler(toy, path, MmrnsPublished, negatives=6, share=0.5)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 3 == 0)
    lookup = model.lookup(batch)
    drawn = sampler.draw(lookup, model, 0)
    s_pos, s_neg = model.score(lookup).detach(), model.score_against(lookup, drawn).detach()
    losses = [
        float(sampler.loss(lookup, drawn, s_pos, torch.where(drawn.trace.replaced, score, s_neg), model, 0).detach())
        for score in (-100.0, 0.0, 100.0)
    ]
    assert losses[0] == losses[1] == losses[2]
    assert losses[0] != float(sampler.loss(lookup, drawn, s_pos, 5 * s_neg, model, 0).detach())
