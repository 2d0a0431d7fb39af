# %% [markdown]
# # Which sampler?
#
# Three methods, the same budget for each, two seeds: what the test MRR is, and how sure that is.
# Everything is kept in a folder; run the cells again and nothing is trained twice.

# %%
import polars as pl

import mmrns
from mmrns.studies.compare import compare
from mmrns.studies.comparison import Comparison
from mmrns.studies.report import table

# %%
comparison = Comparison.of(
    "countries",
    ["TransE"],
    ["uniform", "self-adversarial", "domain-range"],
    seeds=2,
    settings={"model.dim": 50, "training.steps": 500, "training.lr": 0.01, "objective.gamma": 3.0},
)
records = compare(comparison, "runs/which-sampler")

# %% [markdown]
# Means and standard deviations over the seeds, in percent. `difference` is from `self-adversarial`, paired by seed.

# %%
print(pl.DataFrame(table(records)))

# %% [markdown]
# The runs are kept too: what does the best one predict?

# %%
best = max(records, key=lambda record: record["valid_mrr"])
run = mmrns.load_run(f"runs/which-sampler/trained/{best['name']}")
print(run.predict(head="Kenya", relation="borders", top=5))
