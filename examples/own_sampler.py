"""A sampler of your own, beside one of the package's, over two seeds."""

import torch

import mmrns
from mmrns.rng import below


class Typed(mmrns.Sampler, name="typed"):
    """Every other negative from the relation's domain or range, the others from everywhere."""

    def __init__(self, graph, features, spec, *, seed: int = 0, negatives: int = 64):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.domain_range = graph.domain_range

    def propose(self, batch, step):
        bits = self.random_bits(step, "typed", rows=len(batch), device=batch.h.device)
        ids = below(bits, self.n_entities)
        for head, rows in batch.sides:
            ids[rows, ::2], _ = self.domain_range.draw(batch.r[rows], head, bits[rows, ::2])
        return ids


for sampler in ("self-adversarial", Typed):
    runs = [mmrns.train(dataset="countries", sampler=sampler, steps=1000, seed=seed) for seed in range(2)]
    found = torch.tensor([run.results["test"]["both"]["realistic"]["mrr"] for run in runs])
    print(f"{runs[0].config.method:16} test MRR {found.mean():.3f} (from {found.min():.3f} to {found.max():.3f})")

drawn = runs[0].inspect("France", "borders", "Germany", side="tail", steps=2, top=5)["queries"][0]["samplers"][0]
print([negative["entity"] for negative in drawn["negatives"]])
