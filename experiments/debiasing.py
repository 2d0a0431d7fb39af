"""Does the pmi that `mmrns` holds negatives back by tell unknown truths from false candidates?

    python experiments/debiasing.py RUN... [--per 4] [--json FILE]

For each validation triple and side whose query train answers too: x, a random answer of train; the triple's own entity,
an unknown truth; and false entities of the relation's domain or range, true in no split. The area under the ROC curve
is the share of pairs in which the truth has the higher pmi with x, ties counting half; by relation, and over all rows.
Validation only: it is no test of a model, but of what its sampler believes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mmrns
from mmrns.data.index import TripleIndex
from mmrns.rng import generator, random_bits
from mmrns.samplers.mmrns.sampler import Mmrns
from mmrns.types import Batch


@torch.no_grad()
def pmi(run: mmrns.Run, batch: Batch, x: Int[Tensor, " B"], other: Int[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Of x and other entities under each row's relation; a term that one of the two lacks counts 0."""
    sampler, model = run.sampler, run.model
    assert isinstance(sampler, Mmrns)
    information, n = sampler.information, other.shape[1]
    relations = sampler.relations(model, batch.r)
    own = information.read(relations, information.encode(sampler.given(model, x)))
    under = relations.repeat_interleave(n, dim=0)
    read = information.read(under, information.encode(sampler.given(model, other.flatten())))
    return (read.view(len(batch), n, -1) * information.weighed(relations, own)[:, None]).sum(2)


def areas(run: mmrns.Run, per: int, size: int = 1024) -> dict[str, Any]:
    """The area under the curve by relation and over all."""
    graph, stream = run.dataset.graph, generator(0, "debiasing", device="cpu")
    everything = torch.cat([graph.train, graph.valid, graph.test])
    known = TripleIndex(everything, len(graph.entities), len(graph.relations))
    won: list[Tensor] = []
    relation: list[Tensor] = []
    for head in (False, True):
        for triples in graph.valid.split(size):
            batch = Batch.of(triples, torch.full((len(triples),), head))
            anchor, target = batch.anchor, batch.target
            n_answers = graph.train_index.counts(anchor, batch.r, head)
            rows, entities = graph.train_index.targets(anchor, batch.r, head)
            first = n_answers.cumsum(0) - n_answers
            nth = (torch.rand(len(batch), generator=stream) * n_answers).long()
            x = entities[(first + nth).clamp(max=max(len(rows) - 1, 0))] if len(rows) else target
            false, _ = graph.domain_range.draw(batch.r, head, random_bits(len(batch), per, stream=stream, device="cpu"))
            counts = (n_answers > 0)[:, None] & ~known.batch_contains(batch, false) & (x != target)[:, None]
            values = pmi(run, batch, x, torch.cat([target[:, None], false], dim=1))
            above = (values[:, :1] > values[:, 1:]).float() + 0.5 * (values[:, :1] == values[:, 1:])
            won.append(above[counts])
            relation.append(batch.r[:, None].expand_as(counts)[counts])
    above, of = torch.cat(won), torch.cat(relation)
    n = torch.bincount(of, minlength=len(graph.relations))
    by = torch.bincount(of, above, minlength=len(graph.relations)) / n.clamp(min=1)
    named = {
        graph.relations[r]: [round(float(by[r]), 4), int(n[r])] for r in n.argsort(descending=True).tolist() if n[r]
    }
    often = n >= 50
    return {
        "auc": round(float(above.mean()), 4),
        "auc_mean_of_relations": round(float(by[often].mean()), 4),
        "relations": int(often.sum()),
        "pairs": len(above),
        "by_relation": named,
    }


def main() -> None:
    """Print the areas of each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--per", type=int, default=4, help="false entities for each truth")
    parser.add_argument("--json", type=Path, help="write all of it there, by relation too")
    arguments = parser.parse_args()
    found = {str(path): areas(mmrns.load_run(path), arguments.per) for path in arguments.runs}
    for path, row in found.items():
        print(path, {key: value for key, value in row.items() if key != "by_relation"})
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
