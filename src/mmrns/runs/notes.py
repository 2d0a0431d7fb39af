"""What is said before a training: what it runs on, what may be wrong with its data, what it reads of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec

import torch

from mmrns.data.datasets import Dataset
from mmrns.nn.embedders import STRUCTURE, FusedEmbedder
from mmrns.runs.config import Config, takes
from mmrns.runs.threads import told
from mmrns.samplers.base import Sampler
from mmrns.training.trainer import Trainer


def said_before(config: Config, dataset: Dataset, trainer: Trainer, measured: Mapping[int, float]) -> Iterator[str]:
    """Every line that is worth saying, the device first.

    Args:
        config, dataset, trainer: of the training.
        measured: seconds of a step by number of threads.
    """
    device = torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else trainer.device.type
    yield told(device, torch.get_num_threads(), measured, config.training.steps)
    if (size := trainer.world.size) > 1:
        each = -(-trainer.model.n_entities // size)
        yield f"{size} processes have {each:,} of {trainer.model.n_entities:,} entities each."
    if trainer.device.type == "cpu" and find_spec("numba") is None:
        yield "Without Numba a step takes up to twice as long; pip install 'mmrns[fast]'."
    yield from (f"{line}." for line in dataset.notes)
    yield from _leakage(dataset)
    yield from _coverage(dataset, config.data.drop_modality)
    for name, how in config.data.altered.items():
        yield f"{name}: the features are not the true ones (data.altered: {how})."
    yield from _what_is_read(config, dataset, trainer)
    yield from _unseen(dataset, trainer)
    yield from trainer.sampler.notes(trainer.batches.at(0))


def _leakage(dataset: Dataset) -> Iterator[str]:
    leaked = int(dataset.graph.leaked_valid().sum())
    if leaked:
        yield (
            f"{leaked:,} of {len(dataset.graph.valid):,} validation rows are also rows of train or test, so that "
            "validation rewards memorising; --set data.drop_leaked_valid=true validates on the others, and `mmrns data "
            "split --repair` makes a clean split."
        )


def _coverage(dataset: Dataset, dropped: float) -> Iterator[str]:
    """How many entities have each modality."""
    for name, modality in dataset.features.items():
        message = f"{name}: {modality.covered:,} of {len(dataset.graph.entities):,} entities matched"
        if modality.unmatched:
            message += f"; {len(modality.unmatched):,} names match none, first: {modality.unmatched[0]!r}"
        if dropped:
            message += f"; others were left out by data.drop_modality={dropped:g}"
        yield message + "."


def _what_is_read(config: Config, dataset: Dataset, trainer: Trainer) -> Iterator[str]:
    """The modalities that the sampler compares and the scores read, and how to have the others read."""
    there, sampler = list(dataset.features), config.recipe.sampler
    cls = Sampler.registry.get(sampler)
    compares = takes(cls, "modalities")
    if not there:
        if compares:
            yield f"The dataset has no features: the sampler {sampler} compares structure alone."
        return
    drawn = list(trainer.sampler.reads)
    scored = trainer.model.entity.reads
    if cls.needs_modalities:
        read, replaced = _enumerated([STRUCTURE, *scored]), _enumerated(scored)
        yield f"The scores read {read}; the sampler {sampler} replaces {replaced}."
        return
    verb, nothing = ("compares", "structure alone") if drawn or compares else ("reads", "no modality")
    by_sampler = f"The sampler {sampler} {verb} {_enumerated(drawn) or nothing}"
    by_scores = f"the scores read {_enumerated([STRUCTURE, *scored]) if scored else 'structure alone'}"
    line = f"{by_sampler}; {by_scores}."
    if not scored:
        line += f" --set model.modalities=[{','.join(there)}] has entities scored by these too."
    if not drawn and not compares:
        line += " --method mmrns draws by them."
    yield line


def _enumerated(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _unseen(dataset: Dataset, trainer: Trainer) -> Iterator[str]:
    """How many entities without a triple in train are ranked, and what the model can know of them."""
    graph, embedder = dataset.graph, trainer.model.entity
    ranked = torch.zeros_like(graph.seen_entities)
    ranked[torch.cat([graph.valid, graph.test])[:, [0, 2]].flatten()] = True
    unseen, known = ranked & ~graph.seen_entities, trainer.known_by_features
    of_them = "of the entities of valid and test have no triple in train"
    if n := int((unseen & ~known).sum()):
        features = ",".join(dataset.features)
        remedy = f"model.modalities=[{features}] reads features" if features else "`mmrns encode` makes features"
        yield (
            f"{n:,} {of_them} and no feature that the model reads: they are ranked by vectors that nothing has "
            f"trained; {remedy}."
        )
    n = int((unseen & known).sum())
    if n and isinstance(embedder, FusedEmbedder) and not embedder.structure_dropout:
        yield (
            f"{n:,} {of_them}, and the model reads their features; model.structure_dropout=0.2 trains it for such "
            "entities."
        )
