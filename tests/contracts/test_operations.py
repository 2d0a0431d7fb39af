"""The operations of a step, each of which a device has to be given, do not become more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operations import Operations, operations

from forms import FORMS, form_of, model_of
from mmrns.data.datasets import Dataset
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.runs.methods import method_names, method_of
from mmrns.training.trainer import Trainer

ATTENTION = "mmrns with attention"

BOUNDS = {
    "1-vs-all": 90,
    "bernoulli": 116,
    "dhns": 590,
    "domain-range": 130,
    "file": 150,
    "frequency": 108,
    "hard": 92,
    "igan": 172,
    "inbatch": 92,
    "k-vs-all": 82,
    "kbgan": 168,
    "mans": 400,
    "mmrns": 205,
    ATTENTION: 235,
    "mmrns-published": 490,
    "nscaching": 126,
    "sans": 132,
    "self-adversarial": 100,
    "shared-pool": 84,
    "uniform": 100,
}
"""Of each method, in the mean over a cycle; without the compiled kernels, so that they are the same everywhere."""


def _trainer(toy: Dataset, name: str) -> Trainer:
    form = FORMS.get(name, {"name": name})
    method = str(form["name"])
    sampler = form_of(method_of(method).sampler, 4) | form
    del sampler["name"]
    if method_of(method).sampler in ("domain-range", "mmrns"):
        # So that there is something outside of the pool.
        sampler["pool"] = 20
    values: dict[str, Any] = {"model": model_of(method), "method": method, "sampler": sampler}
    return build_trainer(make_config(values | {"training": {"batch_size": 32}, "device": "cpu"}), toy)


@pytest.mark.parametrize("method", [*method_names(), ATTENTION])
def test_a_step_has_no_more_operations_than_it_had(toy: Dataset, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    assert method in BOUNDS, (
        f"the method {method!r} has no bound; count the operations of its step by `operations` and add them to BOUNDS, "
        "rounded up a little"
    )
    monkeypatch.setattr("mmrns.nn.kernels.comparisons.form_on", lambda device: "torch")
    # As many relations, and draws, at once as a device takes.
    at_once = "mmrns.samplers.mmrns.similarity.PublishedSimilarity._relations_at_once"
    monkeypatch.setattr(at_once, lambda similarity, candidates, rows: 1000)
    for name in ("_AT_ONCE", "_ROWS", "_TILE"):
        monkeypatch.setattr(f"mmrns.samplers.mmrns.information.{name}", 2**40)
    monkeypatch.setattr("mmrns.samplers.gumbel._draws_at_once", len)
    found = operations(_trainer(toy, method))
    assert found <= BOUNDS[method], (
        f"a step of {method} has {found:.1f} operations, more than {BOUNDS[method]}: a device waits for each of them; "
        "what does not depend on the model may be made for several steps at once, or once for all"
    )
    # A bound that is far above says nothing.
    assert found > 0.85 * BOUNDS[method], f"lower the bound of {method} to {found:.1f}, rounded up a little"


def test_only_what_has_numbers_to_work_on_counts() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    with Operations() as counted:
        y = x.T.view(3, 2).unsqueeze(0).expand(4, 3, 2).detach()[0]
        torch.empty(3), y.split(1), y.unbind(), y.select(0, 1)
    assert counted.count == 0
    with Operations() as counted:
        (2 * x).sum().backward()
    # The product, the sum, the gradient of the loss, and that of the factor.
    assert counted.count == 4
