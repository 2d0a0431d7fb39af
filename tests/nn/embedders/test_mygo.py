"""A Transformer over the tokens of entities: its layer as torch has it, its tokens and its contrastive loss by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.nn.embedders.mygo import MyGOEmbedder, TransformerLayer, info_nce
from mmrns.nn.model import Model
from mmrns.runs.build import build_model, build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer
from mmrns.types import Batch

LACKS_BOTH, LACKS_IMAGE, UNSEEN = 5, 11, 39
IDS = torch.tensor([0, LACKS_IMAGE, LACKS_BOTH, UNSEEN])


def config_of(**model: object) -> dict[str, object]:
    values = {"embedder": "mygo", "scorer": "DistMult", "dim": 8, "modalities": ["image", "text"], "inner": 12, **model}
    return {"model": values, "method": "uniform", "device": "cpu"}


def model_of(toy: Dataset, **options: object) -> Model:
    return build_model(make_config(config_of(**options)), toy).double()


def embedder_of(toy: Dataset, **options: object) -> MyGOEmbedder:
    found = model_of(toy, **options).entity
    assert isinstance(found, MyGOEmbedder)
    return found


def whole(values: Tensor, what: str) -> Tensor:
    return values


def test_a_layer_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = TransformerLayer(8, 2, 12), nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        for a, b in (
            (theirs.self_attn.out_proj, ours.out),
            (theirs.linear1, ours.inner),
            (theirs.linear2, ours.outer),
            (theirs.norm1, ours.norms[0]),
            (theirs.norm2, ours.norms[1]),
        ):
            a.load_state_dict(b.state_dict())
    x, mask = torch.randn(5, 6, 8), torch.rand(5, 6) < 0.6
    mask[:, 0] = True
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask, whole)[mask], expected[mask])
    torch.testing.assert_close(ours(x, mask, whole, first=True)[:, 0], expected[:, 0])


def test_tokens_by_hand(toy: Dataset) -> None:
    embedder = embedder_of(toy)
    found = embedder.tokens(IDS)
    assert found.sizes == (5, 3)
    assert found.values.shape == (4, 1 + 1 + 5 + 3, 8)
    torch.testing.assert_close(found.values[:, 0], embedder.first.expand(4, -1))
    norm = nn.functional.layer_norm
    torch.testing.assert_close(found.values[:, 1], norm(embedder.structure.weight[IDS], (8,)) + embedder.place[0])
    for m, (start, modality) in enumerate(zip((2, 7), embedder.modalities.values(), strict=True)):
        values, mask = modality.gather(IDS)
        expected = norm(embedder.projections[m](values.double()), (8,)) + embedder.place[1 + m]
        torch.testing.assert_close(found.values[:, start : start + mask.shape[1]], expected)
        assert torch.equal(found.mask[:, start : start + mask.shape[1]], mask)
    # Entity 39 has an image and no triple in train; entity 5 has nothing but its structure.
    assert found.mask[:, :2].tolist() == [[True, True], [True, True], [True, True], [True, False]]
    assert found.mask[:, 2:].any(1).tolist() == embedder.by_features(IDS).tolist() == [True, True, False, True]


@pytest.mark.parametrize("layers", [1, 2])
def test_vectors_are_the_first_outputs(toy: Dataset, layers: int) -> None:
    embedder = embedder_of(toy, layers=layers)
    tokens = embedder.tokens(IDS)
    x = tokens.values
    for layer in embedder.layers:
        x = layer(x, tokens.mask, whole)
    torch.testing.assert_close(embedder(IDS).vectors[:, 0], x[:, 0])


def test_what_is_missing_makes_no_difference(toy: Dataset) -> None:
    embedder = embedder_of(toy)
    before = embedder(IDS).vectors.clone()
    with torch.no_grad():
        embedder.structure.weight[UNSEEN] += 10
        torch.testing.assert_close(embedder(IDS).vectors, before)
        embedder.structure.weight[0] += torch.randn(8)
        assert not torch.equal(embedder(IDS).vectors[0], before[0])


def test_vectors_start_as_long_as_those_of_a_table(toy: Dataset) -> None:
    of_table = {"model": {"scorer": "DistMult", "dim": 64}, "method": "uniform", "device": "cpu"}
    table = build_model(make_config(of_table), toy).entity
    found, expected = (one.all().vectors.detach().std() for one in (embedder_of(toy, dim=64), table))
    assert float(found / expected) == pytest.approx(1, rel=0.05)


def test_noise_is_of_the_entity_the_step_and_the_seed(toy: Dataset) -> None:
    embedder = embedder_of(toy, dropout=0.2, structure_noise=0.6, token_noise=0.3)
    ids = torch.arange(40)
    bare = embedder(ids).vectors
    embedder.begin(4)
    found = embedder(ids).vectors
    assert not torch.allclose(found, bare)
    torch.testing.assert_close(embedder(torch.tensor([7, 3, 7])).vectors, found[[7, 3, 7]])
    with torch.no_grad():
        torch.testing.assert_close(embedder.all().vectors, found)
    zero = embedder.tokens(ids).values[:, 1] - embedder.place[0] == 0
    assert float(zero.double().mean()) == pytest.approx(0.6, abs=4 * (0.24 / 320) ** 0.5)
    dropped = embedder.tokens(ids).values[:, 2:7] - embedder.place[1] == 0
    assert float(dropped.double().mean()) == pytest.approx(0.3, abs=4 * (0.21 / 1600) ** 0.5)
    embedder.constrain()
    torch.testing.assert_close(embedder(ids).vectors, bare)
    embedder.begin(5)
    assert not torch.allclose(embedder(ids).vectors, found)


def test_info_nce_by_hand() -> None:
    torch.manual_seed(1)
    own, other, there = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([True, False, True, True])
    rows = []
    for i in (0, 2, 3):
        cosines = {j: math.exp(float(torch.cosine_similarity(own[i], other[j], dim=0)) / 0.5) for j in (0, 2, 3)}
        rows.append(-math.log(cosines[i] / sum(cosines.values())))
    assert float(info_nce(own, other, there)) == pytest.approx(sum(rows) / 3, rel=1e-5)
    assert float(info_nce(own, other, torch.zeros(4, dtype=torch.bool))) == 0.0


def test_the_contrastive_loss_by_hand(toy: Dataset) -> None:
    embedder, ids = embedder_of(toy), torch.arange(40)
    tokens = embedder.tokens(ids)
    output = embedder.layers[0](tokens.values, tokens.mask, whole)
    own, mask = output[:, 0], tokens.mask
    others = [
        own,
        *(
            (output * m[..., None]).sum(1) / m.sum(1, keepdim=True).clamp(min=1)
            for m in (mask, torch.arange(10).lt(7) & torch.arange(10).ge(2) & mask, torch.arange(10).ge(7) & mask)
        ),
    ]
    there = [mask[:, 0], mask[:, 0], mask[:, 2:7].any(1), mask[:, 7:].any(1)]
    expected = sum(info_nce(own, o, t) for o, t in zip(others, there, strict=True)) / 4
    torch.testing.assert_close(embedder.contrast(ids), torch.as_tensor(expected))
    # With noise the two passes differ.
    noisy = embedder_of(toy, token_noise=0.3)
    noisy.begin(0)
    assert not torch.equal(noisy.tokens(ids).values, noisy.tokens(ids, again=" again").values)


def test_the_step_descends_the_contrastive_loss(toy: Dataset) -> None:
    bare, trainer = (build_trainer(make_config(config_of(contrastive=w, contrasted=40)), toy) for w in (0.0, 0.5))

    def loss(one: Trainer, step: int | None) -> float:
        if step is not None:
            one.model.begin(step)
        found = one.compare(one.model.lookup(one.batch(3)), 3)[0].model
        one.model.constrain()
        return float(found.detach())

    embedder = trainer.model.entity
    assert isinstance(embedder, MyGOEmbedder)
    # Of all entities, in whatever order.
    own = float(embedder.contrast(torch.arange(40)).detach())
    assert loss(trainer, 3) - loss(bare, 3) == pytest.approx(0.5 * own, rel=1e-4)
    # Outside of a step there is none.
    assert loss(trainer, None) == loss(bare, None)


def test_heads_that_do_not_divide_the_width_are_refused(toy: Dataset) -> None:
    with pytest.raises(UsageError, match=r"model\.heads: 3 heads do not divide the 8 reals"):
        model_of(toy, heads=3)


def test_with_noise_a_negative_is_the_entity_that_it_is_elsewhere(toy: Dataset) -> None:
    model = model_of(toy, token_noise=0.4, dropout=0.2)
    model.begin(1)
    batch = Batch.of(toy.graph.train[:6], False)
    every = model.score_all(batch)
    torch.testing.assert_close(model.score(model.lookup(batch)), every.gather(1, batch.target[:, None]).squeeze(1))
