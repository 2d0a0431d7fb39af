"""A sampler, an embedder and a dataset of your own, from a pandas frame to a plot, without touching the disk."""

import numpy as np
import pandas as pd
import torch

import mmrns


class Near(mmrns.Sampler):  # noqa: D101
    def propose(self, batch, step):  # the entities around the true one
        away = (17 * self.uniform(step, rows=len(batch), device=batch.h.device)).long() - 8
        return (batch.target[:, None] + away) % self.n_entities


class Linear(mmrns.Embedder):  # noqa: D101
    def __init__(self, graph, features, *, width, **more):
        super().__init__(len(graph.entities))
        self.x, self.map = features["angle"], torch.nn.Linear(12, width, bias=False)

    def forward(self, ids):  # one token an entity, [n, 1, 12], becomes one view
        vectors = self.map(self.x.gather(ids.flatten())[0]).unflatten(0, ids.shape)
        return mmrns.Views(vectors, torch.ones_like(vectors[..., 0], dtype=torch.bool))


names = [f"p{i:02d}" for i in range(40)]
frame = pd.DataFrame([(names[i], f"plus{s}", names[(i + s) % 40]) for i in range(40) for s in (1, 4, 9)])
angles = np.exp(2j * np.pi * np.arange(40)[:, None] * np.arange(1, 7) / 40).astype("complex64").view("float32")
data = mmrns.Dataset.from_triples(frame, features={"angle": (names, angles)}, split={"valid": 12, "test": 12})
run = mmrns.train(dataset=data, scorer="RotatE", sampler=Near, embedder=Linear, steps=300)
print(run.evaluate(by="relation"), run.plot())
