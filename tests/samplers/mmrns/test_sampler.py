from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features, Modality
from mmrns.errors import UsageError
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.samplers.domain_range import DomainRange
from mmrns.samplers.gumbel import log_inclusion, top_k
from mmrns.samplers.mmrns.proposal import Trace
from mmrns.samplers.mmrns.sampler import Mmrns
from mmrns.training.batches import Batches
from mmrns.types import Batch, OwnNegatives

DIM = 6


def _build(toy: Dataset, features: Features | None = None, **options: object) -> tuple[Model, Mmrns]:
    with seeded(0, "test"):
        model = Model(TransE(DIM, 1.0), len(toy.graph.entities), len(toy.graph.relations))
        chosen = toy.features if features is None else features
        settings = {
            "negatives": 4,
            "pool": 30,
            "domain_range": 20,
            "discount": 0.25,
            "width": 8,
            "attention": True,
        } | options
        return model, Mmrns(toy.graph, chosen, model.spec, **settings)  # type: ignore[arg-type]


def _batch(toy: Dataset, n: int = 24) -> Batch:
    return Batch.of(toy.graph.train[:n], torch.arange(n) % 2 == 0)


def test_attention_is_trained_in_two_steps_of_each_refresh(toy: Dataset) -> None:
    model, sampler = _build(toy, refresh=5)
    batch = _batch(toy)
    trained: list[bool] = []
    for step in range(10):
        negatives = sampler.draw(model.lookup(batch), model, step)
        assert isinstance(negatives, OwnNegatives)
        s_neg = model.score_against(model.lookup(batch), negatives)
        loss = sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, step)
        trained.append(isinstance(loss, Tensor) and loss.requires_grad)
        assert (negatives.through is not None) == trained[-1]
        assert negatives.views is None
    assert trained == [True, True, False, False, False] * 2


def test_the_samplers_loss_does_not_reach_the_model(toy: Dataset) -> None:
    for modalities in (["text", "image"], []):
        model, sampler = _build(toy, modalities=modalities)
        batch = _batch(toy)
        negatives = sampler.draw(model.lookup(batch), model, 0)
        s_neg = model.score_against(model.lookup(batch), negatives)
        loss = sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, 0)
        assert isinstance(loss, Tensor)
        loss.backward()
        assert all(p.grad is None for p in model.parameters())
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in sampler.parameters())


def test_other_positives_answer_the_same_query(toy: Dataset) -> None:
    _, sampler = _build(toy)
    batch = Batch.of(toy.graph.train, torch.arange(len(toy.graph.train)) % 2 == 0)
    other, has = sampler.other_positives(batch, 3)
    row, entity = toy.graph.train_index.batch_targets(batch)
    answers = [set(entity[row == i].tolist()) for i in range(len(batch))]
    for i, (x, f, known) in enumerate(zip(batch.target.tolist(), other.tolist(), has.tolist(), strict=True)):
        assert known == (len(answers[i]) > 1)
        assert f in answers[i]
        assert (f == x) != known
    assert has.any()
    assert not has.all()


def test_missing_equals_removed(toy: Dataset) -> None:
    """Zeroing a mask and deleting the row of the feature file come to the same draw, losses and gradients."""
    victims = [3, 8, 21]
    image = toy.features["image"]
    rows = image.row[victims]
    assert (rows >= 0).all()
    masked = image.mask.clone()
    masked[rows] = False
    removed = image.row.clone()
    removed[victims] = -1
    batch = _batch(toy)
    outcomes: list[tuple[Tensor, list[Tensor]]] = []
    for modality in (replace(image, mask=masked), replace(image, row=removed)):
        model, sampler = _build(toy, Features({"image": modality, "text": toy.features["text"]}))
        negatives = sampler.draw(model.lookup(batch), model, 5)
        lookup = model.lookup(batch)
        s_pos, s_neg = model.score(lookup), model.score_against(lookup, negatives)
        loss = s_neg.sum() + sampler.loss(model.lookup(batch), negatives, s_pos, s_neg, model, 5)
        loss.backward()
        outcomes.append((loss.detach(), [p.grad for p in sampler.parameters() if p.grad is not None]))
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0], rtol=0, atol=0)
    for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_absent_values_do_not_matter(toy: Dataset) -> None:
    """What a file holds under a False mask is never read, except by the authors' form, which knows no masks."""
    image = toy.features["image"]
    noise = torch.where(image.mask[..., None], image.values, 1e3)
    batch = _batch(toy)
    logits: list[Tensor] = []
    for values in (image.values, noise):
        features = Features({"image": replace(image, values=values), "text": toy.features["text"]})
        model, sampler = _build(toy, features)
        logits.append(sampler.draw(model.lookup(batch), model, 0).trace.logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


@pytest.mark.parametrize("modalities", [[], ["text"], ["text", "image"], ["sound", "text", "image"]])
def test_any_number_of_modalities(toy: Dataset, modalities: list[str]) -> None:
    values = torch.randn(20, 3, 2, generator=torch.Generator().manual_seed(0))
    sound = Modality(values, torch.ones(20, 3).bool(), torch.arange(40) - 20)
    model, sampler = _build(toy, Features({**toy.features, "sound": sound}), modalities=modalities)
    batch = _batch(toy)
    assert list(sampler.evidence(batch, torch.arange(3), model).similarities) == (modalities or ["structure"])
    negatives = sampler.draw(model.lookup(batch), model, 0)
    s_neg = model.score_against(model.lookup(batch), negatives)
    loss = s_neg.sum() + sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in sampler.parameters())


def test_an_unknown_modality_is_refused(toy: Dataset) -> None:
    with pytest.raises(UsageError, match="did you mean 'image'"):
        _build(toy, modalities=["imag"])


def test_it_says_before_training_what_a_block_holds(toy: Dataset) -> None:
    batch = _batch(toy)

    def notes(**options: object) -> list[str]:
        _, sampler = _build(toy, **options)
        sampler.foresee(lambda step: batch)
        return sampler.notes(batch)

    assert notes() == ["What a block of 10 steps reads holds up to 0 MiB."]
    assert notes(hold=10_000_000)[0].startswith("What a block of 10000000 steps reads would hold up to 31,")
    assert "every step reads for itself" in notes(memory_mb=0)[0]
    assert notes(hold=1) == []
    assert notes(modalities=[]) == []


@torch.no_grad()
def expected_pmi(
    model: Model, sampler: Mmrns, batch: Batch, ids: Tensor, pool: Tensor, rows: Sequence[int] | None = None
) -> Tensor:
    """Pair by pair, each entity under its own relation, by the docstrings; of all rows, or of those named."""
    information = sampler.information
    a = information.term_width

    def read(r: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        encoded = information.encode(sampler.given(model, e[None]))
        relations = sampler.relations(model, r[None])
        return information.read(relations, encoded)[0], encoded.present[0]

    found: list[list[float]] = []
    for b in range(len(batch)) if rows is None else rows:
        r = batch.r[b]
        x, x_has = read(r, batch.target[b])
        w = torch.nn.functional.softplus(information.scale(sampler.relations(model, r)))
        of_pool = [read(r, e) for e in pool]
        row: list[float] = []
        for e in ids[b]:
            y, has = read(r, e)
            total = 0.0
            for m in range(len(information.terms)):
                part = slice(m * a, (m + 1) * a)
                have = [vector[part] for vector, there in of_pool if there[m]]
                other = y[part] if has[m] else torch.stack(have).mean(0)
                total += float((w[part] * x[part]) @ other) * bool(x_has[m])
            row.append(total)
        found.append(row)
    return torch.tensor(found)


@pytest.mark.parametrize("pool", [15, 23, 29])
def test_pmi_is_the_same_however_much_is_read_at_a_time(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, pool: int
) -> None:
    """Last parts that are shorter, but take as much room as those before, among them."""
    model, sampler = _build(toy, pool=pool)
    batch = _batch(toy)
    c = sampler.candidates(batch, 0)
    expected = sampler.pmi(batch, c, model, 0)
    assert not toy.features["image"].present[c.pool].all()
    pair = sampler.information._reals_per_pair(len(batch.relations)) * len(batch.relations)
    for size in range(1, pool + 1):
        monkeypatch.setattr("mmrns.samplers.mmrns.information._AT_ONCE", size * pair)
        torch.testing.assert_close(sampler.pmi(batch, c, model, 0), expected)


@pytest.mark.parametrize("memory_mb", [1024, 0])
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("modalities", [["text", "image"], ["image"], []])
def test_pmi_is_that_of_the_formula(toy: Dataset, modalities: list[str], attention: bool, memory_mb: int) -> None:
    sizes = {"attention": attention, "pool": 11, "domain_range": 20}
    model, sampler = _build(toy, modalities=modalities, memory_mb=memory_mb, **sizes)
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = _batch(toy, 12)
    c = sampler.candidates(batch, 0)
    columns = torch.arange(c.excluded.shape[1]).expand_as(c.excluded)
    found = sampler.pmi(batch, c, model, 0)
    expected = expected_pmi(model, sampler, batch, c.ids(columns), c.pool)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # And so is that of the lesson, of all rows and candidates, but for the mean, which is over what is there.
    everything = _build(toy, modalities=modalities, columns=11, **sizes)[1]
    everything.load_state_dict(sampler.state_dict())
    lesson = everything.lesson(batch, c, model, 0)
    assert lesson is not None
    has = torch.ones_like(c.excluded)
    for name in modalities:
        has &= toy.features[name].present[c.ids(columns)] | ~toy.features[name].present[batch.target][:, None]
    assert lesson.columns.tolist() == list(range(c.excluded.shape[1]))
    rows = lesson.rows
    torch.testing.assert_close(lesson.pmi.detach()[has[rows]], expected[rows][has[rows]], rtol=1e-4, atol=1e-4)
    assert torch.equal(lesson.excluded, c.excluded[rows])
    torch.testing.assert_close(lesson.log_density, c.log_density[rows])


@pytest.mark.parametrize("head", [False, True])
def test_pmi_of_a_batch_of_one_side(toy: Dataset, head: bool) -> None:
    """Whose relations alone have lists of entities from their domain or range."""
    model, sampler = _build(toy, hold=1, pool=11, domain_range=20)
    batch = Batch.of(toy.graph.train[:12], torch.full((12,), head))
    c = sampler.candidates(batch, 0)
    assert c.listed == len(c.typed) == len(batch.relations)
    columns = torch.arange(c.excluded.shape[1]).expand_as(c.excluded)
    expected = expected_pmi(model, sampler, batch, c.ids(columns), c.pool)
    torch.testing.assert_close(sampler.pmi(batch, c, model, 0), expected, rtol=1e-4, atol=1e-4)


def test_a_lesson_is_an_unbiased_sample_of_the_pool(toy: Dataset) -> None:
    """Sums over its candidates, each divided by how often it is one, are those over all entities."""
    model, sampler = _build(toy, pool=20, columns=6, rows=4, refresh=1, hold=1)
    batch = _batch(toy, 8)
    weight = torch.arange(40.0) ** 2
    false = ~toy.graph.train_index.batch_contains(batch, torch.arange(40))
    expected = (weight * false).sum(1)
    errors: list[Tensor] = []
    for step in range(300):
        c = sampler.candidates(batch, step)
        lesson = sampler.lesson(batch, c, model, step)
        assert lesson is not None
        ids = c.ids(torch.arange(c.excluded.shape[1]).expand_as(c.excluded))[lesson.rows][:, lesson.columns]
        found = (weight[ids] / lesson.log_density.exp() * ~lesson.excluded).sum(1)
        errors.append((found - expected[lesson.rows]).mean())
    error = torch.stack(errors)
    assert error.mean().abs() < 5 * error.std() / 300**0.5
    assert error.std() / 300**0.5 < 0.03 * expected.mean()


def test_a_lesson_takes_rows_that_have_another_positive_first(toy: Dataset) -> None:
    model, sampler = _build(toy, rows=5, refresh=1)
    batch = _batch(toy)
    taken: list[Tensor] = []
    for step in range(40):
        _, has = sampler.other_positives(batch, step)
        assert 5 < has.sum() < len(batch)
        lesson = sampler.lesson(batch, sampler.candidates(batch, step), model, step)
        assert lesson is not None
        assert lesson.has_positive.all()
        assert torch.equal(lesson.has_positive, has[lesson.rows])
        taken.append(lesson.rows)
    assert set(torch.cat(taken).tolist()) == set(has.nonzero().flatten().tolist())
    whole = _build(toy, rows=100, refresh=1)[1].lesson(batch, sampler.candidates(batch, 0), model, 0)
    assert whole is not None
    assert sorted(whole.rows.tolist()) == list(range(len(batch)))


def test_a_lesson_is_about_few_relations(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of others, where there are too few of these, are marked; they get no gradient and say nothing."""
    monkeypatch.setattr("mmrns.samplers.mmrns.sampler._KINDS", 2)
    model, sampler = _build(toy, rows=100, refresh=1)
    batch = _batch(toy)
    seen: set[tuple[int, bool]] = set()
    for step in range(6):
        c = sampler.candidates(batch, step)
        lesson = sampler.lesson(batch, c, model, step)
        assert lesson is not None
        kinds = {*zip(batch.r[lesson.rows].tolist(), batch.head[lesson.rows].tolist(), strict=True)}
        taught = lesson.rows[lesson.there]
        of_taught = {*zip(batch.r[taught].tolist(), batch.head[taught].tolist(), strict=True)}
        assert len(of_taught) == 2 < len(kinds)
        seen |= of_taught
        for r, head in of_taught:
            assert set(taught.tolist()) >= set(((batch.r == r) & (batch.head == head)).nonzero().flatten().tolist())
        assert not lesson.has_positive[~lesson.there].any()
        columns = torch.arange(c.excluded.shape[1]).expand_as(c.excluded)
        some = taught[:4]
        expected = expected_pmi(model, sampler, batch, c.ids(columns)[:, lesson.columns], c.pool, some.tolist())
        both = toy.features["image"].present & toy.features["text"].present
        whole = both[c.ids(columns)[some][:, lesson.columns]] & both[batch.target[some]][:, None]
        read = lesson.pmi.detach()[lesson.there][: len(some)]
        torch.testing.assert_close(read[whole], expected[whole], rtol=1e-4, atol=1e-4)
        negatives = sampler.draw(model.lookup(batch), model, step)
        assert isinstance(negatives, OwnNegatives)
        assert negatives.through is not None
        drawn = negatives.trace.more.lesson
        weight = torch.rand(negatives.through.shape, generator=torch.Generator().manual_seed(step))
        (gradient,) = torch.autograd.grad((weight * negatives.through).sum(), drawn.pmi)
        assert torch.equal(gradient.abs().sum(1) > 0, drawn.there)
    _, has = sampler.other_positives(batch, 0)
    assert len(seen) > 2
    assert seen <= {*zip(batch.r[has].tolist(), batch.head[has].tolist(), strict=True)}


def test_what_is_read_ahead_is_what_a_step_would_read(toy: Dataset) -> None:
    batches = Batches(toy.graph, size=16, seed=1)
    model, sampler = _build(toy, hold=4, pool=11)
    alone = _build(toy, hold=4, pool=11)[1]
    sampler.foresee(batches.at)
    asked: list[Tensor] = []
    for step in range(8):
        batch = batches.at(step)
        lookup = model.lookup(batch)
        expected = alone.pmi(batch, alone.candidates(batch, step), model, step)
        found = sampler.draw(lookup, model, step).trace.more.pmi
        torch.testing.assert_close(found, expected)
        asked.append(found)
    # What is learnt meanwhile is read with from the next block on; a batch that is not the step's is read at once.
    with torch.no_grad():
        for p in sampler.parameters():
            p.mul_(1.5)
    later = sampler.draw(model.lookup(batches.at(7)), model, 7).trace.more.pmi
    assert torch.equal(later, asked[7])
    other = replace(batches.at(7), step=None)
    assert not torch.allclose(sampler.draw(model.lookup(other), model, 7).trace.more.pmi, asked[7])
    with torch.no_grad():
        assert torch.equal(sampler.draw(model.lookup(batches.at(7)), model, 7).trace.more.pmi, asked[7])
        held = {name: value.clone() for name, value in sampler.state_dict().items()}
        sampler.draw(model.lookup(batches.at(8)), model, 8)
        assert all(torch.equal(value, held[name]) for name, value in sampler.state_dict().items())
    sampler.draw(model.lookup(batches.at(8)), model, 8)
    assert int(sampler.held_since) == 8


def test_a_block_is_read_again_where_it_was_stored(toy: Dataset) -> None:
    """Within a block, after the attention has learnt: what is loaded reads with what the block began with."""
    batches = Batches(toy.graph, size=16, seed=1)
    model, sampler = _build(toy, hold=4)
    sampler.foresee(batches.at)
    sampler.draw(model.lookup(batches.at(4)), model, 4)
    with torch.no_grad():
        for p in [*sampler.parameters(), *model.parameters()]:
            p.mul_(1.5)
    expected = sampler.draw(model.lookup(batches.at(6)), model, 6).trace.more.pmi
    other = _build(toy, hold=4)[1]
    other.foresee(batches.at)
    other.load_state_dict(sampler.state_dict())
    assert torch.equal(other.draw(model.lookup(batches.at(6)), model, 6).trace.more.pmi, expected)


def test_without_the_discount_the_draw_is_that_of_domain_and_range(toy: Dataset) -> None:
    model, sampler = _build(toy, discount=1e-12, alpha=1.0, hold=1)
    plain = DomainRange(toy.graph, toy.features, model.spec, negatives=4, pool=30, domain_range=20)
    lookup = model.lookup(_batch(toy))
    for step in range(5):
        a, b = sampler.draw(lookup, model, step), plain.draw(lookup, model, step)
        assert torch.equal(a.entities(24), b.entities(24))
        torch.testing.assert_close(a.log_weight, b.log_weight)


def test_ablations_leave_one_part_out(toy: Dataset) -> None:
    lookups, found = {}, {}
    for name in ("guidance", "contrastive", "gradient", "corrected"):
        model, sampler = _build(toy, **{name: False})
        lookups[name] = model.lookup(_batch(toy))
        negatives = sampler.draw(lookups[name], model, 0)
        assert isinstance(negatives, OwnNegatives)
        s_neg = model.score_against(lookups[name], negatives)
        found[name] = negatives, sampler.loss(lookups[name], negatives, s_neg[:, 0], s_neg, model, 0), sampler
    assert [found[name][0].through is None for name in found] == [False, False, True, False]
    assert [found[name][0].log_weight is None for name in found] == [False, False, False, True]
    assert [isinstance(found[name][1], float) for name in found] == [False, True, False, False]
    sampler = found["guidance"][2]
    assert not sampler.relations(Model(TransE(DIM, 1.0), 40, 5), torch.arange(5)).any()


@pytest.mark.parametrize("discount", [0.25, 2.0])
def test_weights_take_out_the_draw_and_leave_the_debiasing(toy: Dataset, discount: float) -> None:
    """log_weight = -(ln inclusion + ln pi + discount ln(1 + rho)), each from what the draw leaves behind."""
    model, sampler = _build(toy, discount=discount)
    with torch.no_grad():
        sampler.information.scale.bias.fill_(1.0)
    batch = _batch(toy)
    for step in (0, 5):
        drawn = sampler.draw(model.lookup(batch), model, step)
        trace: Trace = drawn.trace
        logits, pmi = trace.logits.detach(), trace.more.pmi.detach()
        c = trace.candidates
        mean = (pmi.exp() / c.log_density.exp() * ~c.excluded).sum(1, keepdim=True) / 40
        softened = torch.log(1 + pmi.exp() / mean)
        perturbed = logits - sampler.noise(logits.shape, step, logits.device).log()
        positions, left_out = top_k(perturbed, trace.positions.shape[1])
        assert torch.equal(positions, trace.positions)
        inclusion = log_inclusion(logits.gather(1, positions), left_out)
        density = trace.candidates.log_density.gather(1, trace.positions)
        held_back = discount * softened.gather(1, trace.positions)
        assert drawn.log_weight is not None
        assert drawn.mask is not None
        assert held_back.std() > 0.01
        expected = -(inclusion + density + held_back)
        torch.testing.assert_close(drawn.log_weight[drawn.mask], expected[drawn.mask])
        # And the draw itself: q ~ exp(alpha s) / (pi (1 + rho)^discount).
        with torch.no_grad():
            scores = sampler.scores(model.lookup(batch), model, trace.candidates)
        q = sampler.alpha * scores - trace.candidates.log_density - discount * softened
        allowed = ~trace.candidates.excluded
        torch.testing.assert_close(logits[allowed], q[allowed])
