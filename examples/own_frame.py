"""Your own triples and features, from frames in memory to predictions."""

import numpy as np
import polars as pl

import mmrns

# A small world: people know each other within their town, and live there.
people = [f"person{i:02d}" for i in range(60)]
town = {name: f"town{i % 4}" for i, name in enumerate(people)}
rows = [(name, "lives_in", town[name]) for name in people]
rows += [(a, "knows", b) for i, a in enumerate(people) for b in people[i + 4 : i + 17 : 4]]
triples = pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row")

# A vector for each person: noise around one vector for each town. Towns have none, which is no problem.
rng = np.random.default_rng(0)
centres = rng.normal(size=(4, 16))
vectors = centres[np.arange(60) % 4] + 0.3 * rng.normal(size=(60, 16))

world = mmrns.Dataset.from_triples(
    triples, split={"valid": 0.1, "test": 0.1}, features={"profile": (people, vectors)}, name="world"
)
print(world)

run = mmrns.train(
    dataset=world,
    scorer="DistMult",
    method="self-adversarial",
    modalities=["profile"],
    dim=32,
    steps=500,
    settings={"training.lr": 0.01},
)
print(run)
print(run.predict(head="person00", relation="lives_in", top=2))
print(run.score([("person00", "knows", "person08"), ("person00", "knows", "person09")]))
