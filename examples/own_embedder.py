"""An embedder of your own: entities are known by their texts alone, so that also those without triples are placed."""

import torch
from torch import nn

import mmrns


class FromText(mmrns.Embedder, name="from-text"):
    """A network over the mean of an entity's text tokens."""

    def __init__(self, graph, features, *, width, init_range, sparse=False, hidden: int = 64):
        super().__init__(len(graph.entities))
        self.text = features["text"]
        self.network = nn.Sequential(nn.Linear(self.text.width, hidden), nn.Tanh(), nn.Linear(hidden, width))
        nn.init.normal_(self.network[2].weight, std=init_range * (3 / hidden) ** 0.5)

    def forward(self, ids):
        values, mask = self.text.gather(ids.flatten())
        tokens = (values.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        vectors = self.network(tokens).unflatten(0, ids.shape)[..., None, :]
        return mmrns.Views(vectors, torch.ones_like(vectors[..., 0], dtype=torch.bool))


run = mmrns.train(dataset="countries", embedder=FromText, method="self-adversarial", dim=100, steps=1000)
print(run)
print(run.embeddings().head(3))
