"""KCA and the entity gate against loops over the formulas of their docstrings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from mmrns.samplers.mmrns.attention import EntityGate, KnowledgeGuidedAttention, Summary, Tokens

N, R, WIDTH, RELATION = 6, 3, 5, 4
TOKENS, WIDTHS = (4, 3), (7, 2)
MANY = 10_000
"""So many relations that folding is always cheaper."""


def build(modalities: int) -> KnowledgeGuidedAttention:
    torch.manual_seed(modalities)
    kca = KnowledgeGuidedAttention(TOKENS[:modalities], WIDTHS[:modalities], RELATION, WIDTH).double()
    with torch.no_grad():
        # As after training: a LayerNorm whose bias is not zero tells LN(0) from 0.
        kca.norm.weight.uniform_(0.5, 1.5)
        kca.norm.bias.uniform_(-1, 1)
    return kca


def inputs(modalities: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Relations, values and masks; entity 0 has all tokens, 1 lacks the first modality, 2 the second, 3 both."""
    g = torch.Generator().manual_seed(0)
    relations = torch.randn(R, RELATION, generator=g, dtype=torch.float64)
    shapes = list(zip(TOKENS, WIDTHS, strict=True))[:modalities]
    values = [torch.randn(N, tokens, width, generator=g, dtype=torch.float64) for tokens, width in shapes]
    masks = [torch.rand(N, tokens, generator=g) < 0.6 for tokens, _ in shapes]
    for m, mask in enumerate(masks):
        mask[0], mask[1 + m], mask[3] = True, False, False
        mask[2 - m], mask[4, 0], mask[5, 1] = True, True, True
        if m:
            mask[4, 1] = False
    return relations, values, masks


def layer_norm(kca: KnowledgeGuidedAttention, x: Tensor) -> Tensor:
    standard = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + kca.norm.eps)
    return standard * kca.norm.weight + kca.norm.bias


def naive(
    kca: KnowledgeGuidedAttention, relation: Tensor, values: list[Tensor], masks: list[Tensor], omit: bool = False
) -> list[Tensor]:
    """Y of one (relation, entity) pair, one a modality, by the docstring: `values[m]` is [L D]."""
    projected = [leaky_relu(kca.project[m](v), 0.1) for m, v in enumerate(values)]
    first, second = projected[0], projected[-1]
    present = [m.tolist() for m in masks]
    first_present, second_present = present[0], present[-1]
    gates = [torch.sigmoid(linear(relation)).view(len(first), len(second)) for linear in kca.gate]

    def read(m: int, tokens: Tensor, present: list[bool], guide: Tensor, guide_present: list[bool], transpose: bool):
        gate = gates[m].T if transpose else gates[m]
        rows: list[Tensor] = []
        for k in range(len(guide)):
            guided = attended = torch.zeros(WIDTH, dtype=torch.float64)
            here = [j for j in range(len(tokens)) if present[j]]
            affinities = [tokens[j] @ guide[k] if guide_present[k] else torch.zeros(()).double() for j in here]
            if here:
                attention = torch.softmax(torch.stack(affinities), 0)
                attended = sum((a * tokens[j] for a, j in zip(attention, here, strict=True)), attended)
                guided = sum((gate[j, k] * c * tokens[j] for c, j in zip(affinities, here, strict=True)), guided)
            term = layer_norm(kca, guided) if guide_present[k] else torch.zeros(WIDTH, dtype=torch.float64)
            rows.append(term + (attended if omit and m == 0 else layer_norm(kca, attended)))
        return kca.out[m](torch.cat(rows))

    ys = [read(0, first, first_present, second, second_present, False)]
    if len(values) == 2:
        ys.append(read(1, second, second_present, first, first_present, True))
    return ys


def encode(kca: KnowledgeGuidedAttention, values: list[Tensor], masks: list[Tensor]) -> list[Tokens]:
    return [kca.encode(m, v, mask) for m, (v, mask) in enumerate(zip(values, masks, strict=True))]


def outer(kca: KnowledgeGuidedAttention, relations: Tensor, tokens: list[Tokens], folded: bool = False) -> list[Tensor]:
    """Y of every pair, both modalities folded or none."""
    terms = kca.terms(tokens, n_relations=MANY if folded else 0)
    assert all((term.folded is not None) == folded for term in terms)
    return kca.outer(kca.gates(relations), terms)


@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_outer_equals_the_formula(modalities: int, folded: bool) -> None:
    kca, (relations, values, masks) = build(modalities), inputs(modalities)
    found = outer(kca, relations, encode(kca, values, masks), folded)
    assert len(found) == kca.n_modalities == modalities
    for r in range(R):
        for n in range(N):
            expected = naive(kca, relations[r], [v[n] for v in values], [m[n] for m in masks])
            for y, wanted in zip(found, expected, strict=True):
                assert y.shape == (R, N, WIDTH)
                torch.testing.assert_close(y[r, n], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize("omit", [False, True])
@torch.no_grad()
def test_paired_equals_the_formula(modalities: int, omit: bool) -> None:
    kca, (relations, values, masks) = build(modalities), inputs(modalities)
    own = torch.tensor([2, 0, 1, 1, 0, 2])
    found = kca.paired(kca.gates(relations[own]), encode(kca, values, masks), omit_first_norm=omit)
    for n in range(N):
        expected = naive(kca, relations[own[n]], [v[n] for v in values], [m[n] for m in masks], omit)
        for y, wanted in zip(found, expected, strict=True):
            assert y.shape == (N, WIDTH)
            torch.testing.assert_close(y[n], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("modalities", [1, 2])
@torch.no_grad()
def test_paired_is_the_diagonal_of_outer(modalities: int) -> None:
    kca, (relations, values, masks) = build(modalities), inputs(modalities)
    own = torch.tensor([2, 0, 1, 1, 0, 2])
    tokens = encode(kca, values, masks)
    for paired, every in zip(kca.paired(kca.gates(relations[own]), tokens), outer(kca, relations, tokens), strict=True):
        torch.testing.assert_close(paired, every[own, torch.arange(N)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modalities", [1, 2])
def test_absent_tokens_never_matter(modalities: int) -> None:
    kca, (relations, values, masks) = build(modalities), inputs(modalities)
    before = outer(kca, relations, encode(kca, values, masks))
    changed = [torch.where(m[..., None], v, 1e3 + v).requires_grad_() for v, m in zip(values, masks, strict=True)]
    assert all(not torch.equal(a, b) for a, b in zip(values, changed, strict=True))
    after = outer(kca, relations, encode(kca, changed, masks))
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)
    weights = torch.randn(R, N, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for gradient, mask in zip(
        torch.autograd.grad(sum((weights * y).sum() for y in after), changed), masks, strict=True
    ):
        assert torch.isfinite(gradient).all()
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask].abs().sum(-1) > 0).any()


@pytest.mark.parametrize("side", [0, 1])
@torch.no_grad()
def test_guide_that_is_absent_leaves_the_mean_and_no_relation(side: int) -> None:
    kca, (relations, values, masks) = build(2), inputs(2)
    entity = 1 + (1 - side)  # lacks the other modality, has every token of this one
    assert masks[side][entity].all()
    assert not masks[1 - side][entity].any()
    ys = outer(kca, relations, encode(kca, values, masks))[side][:, entity]
    projected = leaky_relu(kca.project[side](values[side][entity]), 0.1)
    mean = layer_norm(kca, projected.mean(0))
    expected = kca.out[side](mean.repeat(TOKENS[1 - side]))
    for y in ys:
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    full = outer(kca, relations, encode(kca, values, masks))[side][:, 0]
    assert (full[0] - full[1]).abs().max() > 1e-3


@torch.no_grad()
def test_encode_projects_and_zeroes() -> None:
    kca, (_, values, masks) = build(2), inputs(2)
    tokens = kca.encode(1, values[1], masks[1])
    projected = leaky_relu(values[1] @ kca.project[1].weight.T + kca.project[1].bias, 0.1)
    assert torch.equal(tokens.mask, masks[1])
    assert (tokens.values[~masks[1]] == 0).all()
    torch.testing.assert_close(tokens.values[masks[1]], projected[masks[1]])
    assert (tokens.values[masks[1]] < 0).any()


def test_gates_are_between_zero_and_one_and_differ_by_modality() -> None:
    kca, (relations, _, _) = build(2), inputs(2)
    first, second = kca.gates(relations)
    assert first.shape == second.mT.shape == (R, *TOKENS)
    assert ((first > 0) & (first < 1)).all()
    assert not torch.allclose(first, second.mT)


def test_every_parameter_gets_a_gradient() -> None:
    kca, (relations, values, masks) = build(2), inputs(2)
    weights = torch.randn(R, N, WIDTH, dtype=torch.float64)
    sum((weights * y).sum() for y in outer(kca, relations, encode(kca, values, masks))).backward()
    for name, parameter in kca.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
@pytest.mark.parametrize("folded", [False, True])
def test_of_three_modalities_each_is_guided_by_the_tokens_of_the_others(folded: bool) -> None:
    torch.manual_seed(3)
    shapes = [(4, 7), (3, 2), (2, 6)]
    kca = KnowledgeGuidedAttention(*zip(*shapes, strict=True), RELATION, WIDTH).double()
    relations = torch.randn(R, RELATION, dtype=torch.float64)
    masks = [torch.rand(N, length) < 0.7 for length, _ in shapes]
    tokens = [kca.encode(m, torch.randn(N, *shapes[m], dtype=torch.float64), mask) for m, mask in enumerate(masks)]
    found = kca.outer(kca.gates(relations), kca.terms(tokens, n_relations=MANY * folded))
    paired = kca.paired(kca.gates(relations[torch.arange(N) % R]), tokens)
    for m in range(3):
        others = [k for k in range(3) if k != m]
        guide = torch.cat([tokens[k].values for k in others], dim=1)
        there = torch.cat([masks[k] for k in others], dim=1)
        for u in range(R):
            gate = torch.sigmoid(kca.gate[m](relations[u]))
            shape = shapes[m][0], guide.shape[1]
            # Row by row, the read tokens first, of the first modality; the guiding ones first, of all others.
            gate = gate.view(*shape) if m == 0 else gate.view(*shape[::-1]).T
            for n in range(N):
                read, asks = tokens[m].values[n], guide[n]
                rows: list[Tensor] = []
                for k in range(guide.shape[1]):
                    c = torch.stack([i @ asks[k] for i in read])
                    present = c.masked_fill(~masks[m][n], -torch.inf) if masks[m][n].any() else torch.zeros_like(c)
                    attended = layer_norm(kca, torch.softmax(present, 0) @ read)
                    guided = layer_norm(kca, (gate[:, k] * c) @ read) if there[n, k] else 0.0
                    rows.append(guided + attended)
                y = kca.out[m](torch.cat(rows))
                torch.testing.assert_close(found[m][u, n], y, rtol=1e-9, atol=1e-9)
                if n % R == u:
                    torch.testing.assert_close(paired[m][n], y, rtol=1e-9, atol=1e-9)
    names = [(a.reads, a.guide) for a in kca.maps(relations[torch.arange(N) % R], tokens, ["a", "b", "c"])]
    assert names == [("a", "b + c"), ("b", "a + c"), ("c", "a + b")]


@pytest.mark.parametrize(("tokens", "widths"), [((), ()), ((1, 2), (3,))])
def test_at_least_one_modality_and_as_many_widths(tokens: tuple[int, ...], widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one modality"):
        KnowledgeGuidedAttention(tokens, widths, 4, 5)


@torch.no_grad()
def test_entity_gate_equals_the_formula() -> None:
    torch.manual_seed(0)
    gate = EntityGate(entity_width=3, relation_width=RELATION, width=6).double()
    relations = torch.randn(R, RELATION, dtype=torch.float64)
    entities = torch.randn(N, 3, dtype=torch.float64)

    def formula(e: Tensor, r: Tensor) -> Tensor:
        hidden = leaky_relu(gate.hidden(torch.cat([e, r])), 0.1)
        return e * torch.sigmoid(gate.gate(hidden))

    outer = gate(relations[:, None], entities)
    assert outer.shape == (R, N, 3)
    for r in range(R):
        for n in range(N):
            torch.testing.assert_close(outer[r, n], formula(entities[n], relations[r]), rtol=1e-12, atol=1e-12)
    own = torch.tensor([0, 2, 1, 1, 0, 2])
    paired = gate(relations[own], entities)
    torch.testing.assert_close(paired, outer[own, torch.arange(N)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize(("dtype", "value", "gradient"), [(torch.float64, 1e-11, 1e-9), (torch.float32, 1e-5, 1e-3)])
def test_folded_equals_direct(modalities: int, dtype: torch.dtype, value: float, gradient: float) -> None:
    """Values and all parameter gradients, missing tokens and modalities included."""
    kca, (relations, values, masks) = build(modalities).to(dtype), inputs(modalities)
    relations = relations.to(dtype).requires_grad_()
    outcomes: list[tuple[list[Tensor], list[Tensor]]] = []
    for folded in (False, True):
        kca.zero_grad()
        relations.grad = None
        ys = outer(kca, relations, encode(kca, [v.to(dtype) for v in values], masks), folded)
        weights = torch.randn(len(ys), R, N, WIDTH, generator=torch.Generator().manual_seed(5), dtype=dtype)
        sum((w * torch.tanh(y)).sum() for w, y in zip(weights, ys, strict=True)).backward()
        gradients = [p.grad.clone() for p in kca.parameters() if p.grad is not None]
        assert relations.grad is not None
        outcomes.append(([y.detach() for y in ys], [*gradients, relations.grad.clone()]))
    for a, b in zip(outcomes[0][0], outcomes[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=value, atol=value)
    assert len(outcomes[0][1]) == len(outcomes[1][1]) == len(list(kca.parameters())) + 1
    for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True):
        assert (a - b).abs().max() <= gradient * a.abs().max()


def test_folding_is_chosen_by_the_number_of_products() -> None:
    """At the authors' sizes: images from 32 relations on, texts from 5."""
    kca = KnowledgeGuidedAttention((24, 4), (383, 384), 10, 50)
    assert [kca.folds(0, n) for n in (1, 31, 32, 400)] == [False, False, True, True]
    assert [kca.folds(1, n) for n in (1, 4, 5, 400)] == [False, False, True, True]


@pytest.mark.parametrize("n_modalities", [1, 2])
def test_maps_are_what_the_representation_is_made_of(n_modalities: int) -> None:
    torch.manual_seed(0)
    counts, widths = ((5, 3), (7, 4)) if n_modalities == 2 else ((5,), (7,))
    attention = KnowledgeGuidedAttention(counts, widths, 6, 8).double()
    masks = [torch.rand(4, n) < 0.7 for n in counts]
    for mask in masks:
        mask[:, 0] = True
    tokens = [
        attention.encode(m, torch.randn(4, n, w, dtype=torch.float64), mask)
        for m, (n, w, mask) in enumerate(zip(counts, widths, masks, strict=True))
    ]
    relations = torch.randn(4, 6, dtype=torch.float64)
    names = ["image", "text"][:n_modalities]
    maps = attention.maps(relations, tokens, names)
    assert len(maps) == n_modalities
    for m, (one, y) in enumerate(zip(maps, attention.paired(attention.gates(relations), tokens), strict=True)):
        assert (one.reads, one.guide) == (names[m], names[-1 - m])
        read, guide = tokens[m], tokens[-1 - m]
        torch.testing.assert_close(one.affinity, read.values @ guide.values.mT)
        torch.testing.assert_close(one.attention.sum(1), torch.ones_like(one.attention[:, 0]))
        assert (one.attention[~one.read_mask] == 0).all()
        guided = attention.norm((one.gate * one.affinity).mT @ read.values) * one.guide_mask[..., None]
        mixed = guided + attention.norm(one.attention.mT @ read.values)
        torch.testing.assert_close(attention.out[m](mixed.flatten(1)), y)


def test_the_summary_is_its_formula() -> None:
    torch.manual_seed(0)
    summary = Summary(TOKENS, WIDTHS, WIDTH).double()
    _, values, masks = inputs(2)
    found = summary(list(zip(values, masks, strict=True)))
    assert found.shape == (N, 2, WIDTH)
    for e in range(N):
        for m, (v, mask) in enumerate(zip(values, masks, strict=True)):
            whole = summary.map[m].bias.clone()
            for place, (token, there) in enumerate(zip(v[e], mask[e], strict=True)):
                part = summary.map[m].weight[:, place * WIDTHS[m] : (place + 1) * WIDTHS[m]]
                whole += there * (part @ token)
            torch.testing.assert_close(found[e, m], whole)
    garbage = [torch.where(mask[..., None], v, torch.nan) for v, mask in zip(values, masks, strict=True)]
    again = summary(list(zip(garbage, masks, strict=True)))
    torch.testing.assert_close(again, found, rtol=0, atol=0)
