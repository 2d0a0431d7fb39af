"""A scorer of your own, checked by hand, then trained."""

import torch

import mmrns


class Stretch(mmrns.Scorer, name="Stretch"):
    """f(h, r, t) = -|| (1 + s) h + v - t ||_1; a relation is its stretch s and its shift v."""

    comparison = "l1"
    distance = True

    @property
    def relation_width(self):
        return 2 * self.dim

    def query(self, anchor, relation, head):
        stretch, shift = relation.chunk(2, dim=-1)
        if head:  # which h has (1 + s) h + v near t?
            return (anchor - shift) / (1 + stretch).clamp(min=0.1)
        return (1 + stretch) * anchor + shift


h, r, t = torch.tensor([[2.0]]), torch.tensor([[0.5, 1.0]]), torch.tensor([[3.0]])
scorer = Stretch(dim=1, init_range=1.0)
assert scorer.compare(scorer.query(h, r, head=False), t).item() == -abs(1.5 * 2.0 + 1.0 - 3.0)

run = mmrns.train(dataset="countries", scorer=Stretch, method="self-adversarial", dim=100, steps=1000)
print(run)
print(run.evaluate(by="relation"))
