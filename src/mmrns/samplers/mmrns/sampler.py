"""MMRNS: hard negatives, drawn by a masked Gumbel-softmax and debiased by knowledge-guided cross-modal attention."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.nn.numerics import without_autocast
from mmrns.samplers.base import Inner, Recipe
from mmrns.samplers.explanation import NO_ATTENTION, NO_MODALITY, Evidence
from mmrns.samplers.gumbel import gumbel_noise, straight_through_top_k
from mmrns.samplers.mmrns.contrastive import density_ratio, info_nce
from mmrns.samplers.mmrns.information import (
    Compared,
    Encoded,
    Given,
    Information,
    Rows,
    frozen,
)
from mmrns.samplers.mmrns.proposal import Candidates, CandidateSampler, Trace
from mmrns.samplers.pools import distinct
from mmrns.types import Batch, Negatives

_HOLD = 10
"""Steps of a block with attention, which reads every candidate under every relation."""

_KINDS, _TYPED = 16, 16
"""Pairs of a relation and a side that a lesson is about, and entities of the domain or range of each."""

_TINY = 1e-3
"""Weight of a relation and side in whose rows nothing is to be learned."""


@dataclass(frozen=True)
class Block:
    """The pmi of all rows of a block's batches, read ahead.

    Attributes:
        number: of the block.
        pmi: Float[U C], of the distinct rows; None where it would take too much, so that every step reads its own.
        places: Int[B] by step, which of these is each row of its batch.
    """

    number: int
    pmi: Float[Tensor, "U C"] | None
    places: dict[int, Int[Tensor, " B"]]


@dataclass(frozen=True)
class Debiasing:
    """How likely the candidates of a step are to be unknown positives, and what the attention learns from.

    Attributes:
        pmi: Float[B C], ln p(candidate answers too | the true entity, the relation) / p(candidate), up to a constant.
        ratio: Float[B C], rho, that quotient itself: e^pmi over its mean over all entities.
        lesson: what the step trains the attention with; None where it does not.
    """

    pmi: Float[Tensor, "B C"]
    ratio: Float[Tensor, "B C"]
    lesson: Lesson | None = None


@dataclass(frozen=True)
class Lesson:
    """The part of a step that trains the attention: some rows, and some of their candidates.

    Attributes:
        rows: Int[n].
        columns: Int[c], of the C candidates.
        there: Bool[n], False where a row only fills the place of one that is not there.
        pmi: Float[n c], with gradients.
        log_density: Float[n c], ln of the probability with which each came to be here.
        excluded: Bool[n c].
        positive: Float[n], pmi of another positive of the row's query, with gradients.
        has_positive: Bool[n], whether the query has another positive.
    """

    rows: Int[Tensor, " n"]
    columns: Int[Tensor, " c"]
    there: Bool[Tensor, " n"]
    pmi: Float[Tensor, "n c"]
    log_density: Float[Tensor, "n c"]
    excluded: Bool[Tensor, "n c"]
    positive: Float[Tensor, " n"]
    has_positive: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Choice:
    """What a lesson is about, which no parameter decides.

    Attributes:
        rows, columns, there: see `Lesson`.
        which: Int[n], which of the k relations is each row's.
        relations: Int[k].
        typed: Int[k m], entities of the domain or range of each.
        share: Float[c], ln of how many candidates each column stands for.
        positives: Int[n], another positive of each row's query.
        has_positive: see `Lesson`.
    """

    rows: Int[Tensor, " n"]
    columns: Int[Tensor, " c"]
    there: Bool[Tensor, " n"]
    which: Int[Tensor, " n"]
    relations: Int[Tensor, " k"]
    typed: Int[Tensor, "k m"]
    share: Float[Tensor, " c"]
    positives: Int[Tensor, " n"]
    has_positive: Bool[Tensor, " n"]

    def filled_up(self, k: int) -> Choice:
        """With relations that no row is of, so that there are k of them."""
        more = k - len(self.relations)
        relations = torch.cat([self.relations, self.relations.new_zeros(more)])
        return replace(
            self, relations=relations, typed=torch.cat([self.typed, self.typed.new_zeros(more, self.typed.shape[1])])
        )


@dataclass(frozen=True)
class Prepared:
    """What a step that is recorded finds of the candidates, their pmi or what decides it, and its lesson, if any."""

    candidates: Candidates
    pmi: Float[Tensor, "B C"] | Compared
    choice: Choice | None


class Mmrns(CandidateSampler, name="mmrns"):
    """Relation-enhanced negative sampling: negatives that the model finds hard, but not those whose pictures and texts
    say that they may be true.

    After Xu et al., "Relation-enhanced Negative Sampling for Multimodal Knowledge Graph Completion" (ACM MM 2022), with
    its three parts: knowledge-guided cross-modal attention (KCA), a contrastive loss and a masked Gumbel-softmax. The
    authors' own arithmetic is the sampler `mmrns-published`; without the debiasing it is `domain-range`. The attention
    is an option: a gated summary of the tokens, which costs less, came to the same results.

    **The draw.** With pi(e) the probability that e is a candidate (`CandidateSampler`), x the row's true entity and
    s(e) the model's own score,

        q(e) ~ exp(alpha s(e)) / ( pi(e) (1 + rho(e))^discount )

    K negatives are drawn without replacement, by one Gumbel noise and its top K (the Plackett-Luce distribution).
    Candidates that are true in train are left out. Importance weights take out how often a candidate comes to be drawn,
    but not the debiasing: the loss estimates the self-adversarial softmax over all entities, each divided by
    (1 + rho)^discount.

    **The debiasing.** rho(e) is how many times as likely e is to answer the query, given that x does, as any entity is:
    e^pmi(e) over its mean over all entities, which the candidates estimate. So an entity of which pictures and texts
    say nothing keeps its weight, and the more they say for it the less of it is left. pmi(e) is the pointwise mutual
    information of "x answers the query" and "e answers it too",

        pmi(e) = sum_m <w_m(r) * u_m(x), u_m(e)>        u_m(e) = z_m(e) / stopgrad ||z_m(e)||

    where z_m(e) is a linear map of the tokens of e in modality m (`Summary`; without any modality it is the structural
    vector) and w_m(r) = softplus(W_m r + b_m) > 0 says what counts under the relation (`Information`). So the pmi of a
    batch is one product of two matrices. Maps and weights are those of the last step that is a multiple of 200.

    With `attention` what the `KnowledgeGuidedAttention` reads under the relation is added to z_m. It reads every
    candidate under every relation anew, so that the candidates are held for a block of `hold` steps, at whose start
    what all its batches will compare is read at once.

    **The training.** In the first two of every `refresh` steps, one a side, these learn to tell another positive x' of
    a row's query from all entities (InfoNCE, over the rows that have one),

        -ln [ e^pmi(x') / ( e^pmi(x') + sum_e e^pmi(e) / pi(e) ) ]

    whose optimum is the pointwise mutual information, and they get the straight-through gradient of the draw. Some rows
    of a few relations do for both, if possible such that have another positive, and some of the candidates, whose sums
    are unbiased estimates of those over all. The model's vectors get no gradient from the sampler.

    **Missing modalities.** One that the true entity lacks adds nothing to its row. A candidate that lacks one takes the
    mean over the pool's entities that have it.

    Cost of a draw: that of `domain-range` and a product of B x P x W. With attention also B representations, and those
    of P entities under the R relations of a block's batches, once in a block.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives, pool, domain_range: see `CandidateSampler`.
        hold: steps of a block, which share their candidates; by default 1, and 10 with attention.
        pool_sampler: a sampler whose draws fill half of the pool.
        discount: how strongly likely positives are held back.
        refresh: what it reads with is trained in two of this many steps.
        rows: of the batch that it is trained with then, first of those whose query has another positive.
        columns: entities of the pool that it is trained with.
        modalities: names; by default all that the dataset has. With none, the structure alone is compared.
        attention: read tokens with the attention too, do not compare their summaries alone.
        guidance: let the relation weigh what is compared. False is an ablation: the same weights for every relation.
        contrastive: train it by the contrastive loss. False is an ablation.
        gradient: train it by the gradient of the draw. False is an ablation: plain sampling.
        corrected: divide importance weights out. False is an ablation: negatives weigh as they come.
        width: a, width of what is compared in a modality.
        memory_mb: bound on what representations hold, in MiB; where a block takes more, each step has its own, some at
            a time.
        alpha: inverse temperature of the objective's self-adversarial weights.
    """

    recipe = Recipe(alpha=2.0)
    undivided = ""

    lag: ClassVar[int] = 200
    """Steps that compare with what the first of them does: it changes slowly, and encoded entities are kept so long."""

    held_relations: Tensor
    held_since: Tensor

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        pool: PositiveInt = 1024,
        domain_range: NonNegativeInt = 1024,
        hold: PositiveInt | None = None,
        pool_sampler: Inner | None = None,
        discount: PositiveFloat = 1.0,
        refresh: PositiveInt = 50,
        rows: PositiveInt = 64,
        columns: PositiveInt = 128,
        modalities: list[str] | None = None,
        attention: bool = False,
        guidance: bool = True,
        contrastive: bool = True,
        gradient: bool = True,
        corrected: bool = True,
        width: PositiveInt = 50,
        memory_mb: NonNegativeInt = 1024,
        alpha: float = 2.0,
    ):
        hold = hold or (_HOLD if attention else 1)
        sizes = {"negatives": negatives, "pool": pool, "domain_range": domain_range, "hold": hold}
        super().__init__(graph, features, spec, seed=seed, **sizes)
        self.discount, self.refresh, self.alpha = discount, refresh, alpha
        self.rows, self.columns, self.memory_mb = rows, min(columns, self.pool_size), memory_mb
        self.guidance, self.contrastive, self.gradient, self.corrected = guidance, contrastive, gradient, corrected
        names = sorted(features) if modalities is None else modalities
        self.modalities: dict[str, Modality] = {name: features[name] for name in names}
        shapes = {name: (m.tokens, m.width) for name, m in self.modalities.items()}
        self.information = Information(shapes, spec, width=width, attend=attention)
        # What it compares with is stored, so that a run that goes on meanwhile compares as if it had not stopped.
        self.held_information = frozen(self.information)
        self.register_buffer("held_since", torch.tensor(-1))
        self._since = -1
        if attention:
            self.register_buffer("held_relations", torch.zeros(self.n_relations, spec.relation_width))
        self._block: Block | None = None
        self._encoded: Encoded | None = None
        self.register_load_state_dict_post_hook(Mmrns._recall)
        self.fill_pool_with(pool_sampler)

    def forget(self) -> None:
        super().forget()
        self._block = self._encoded = None

    def kind(self, step: int) -> Hashable | None:
        """Steps with a lesson, and those without; none where another sampler draws for the pool."""
        return self._teaches(step) if self.pool_sampler is None else None

    def prepare(self, batch: Batch, model: Model, step: int) -> Prepared:
        """The candidates, which are drawn for several steps at once, and what was learnt some steps ago of them."""
        candidates = self.unfiltered(batch, step)
        choice = self._choice(batch, candidates, step) if self._teaches(step) else None
        if self.information.attention is None:
            self._hold_what_is_learnt(batch, step, model)
            information = self._compares_by(batch, step)
            with torch.no_grad(), without_autocast(candidates.pool.device):
                compared = self._compared(information, batch, candidates, model)
                of_rows = compared.by_row()
                pmi = information.pmi(compared) if of_rows is None else of_rows
        else:
            pmi = self.pmi(batch, candidates, model, step, trains=True)
        if choice is not None:
            choice = choice.filled_up(min(_KINDS, 2 * self.n_relations))
        return Prepared(candidates.by_row(), pmi, choice)

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        of_pool, batch = self.for_the_pool(lookup, model, step), lookup.batch
        given: Prepared | None = batch.given
        if given is None:
            candidates = self.candidates(batch, step, of_pool)
            lesson = self.lesson(batch, candidates, model, step)
            pmi = self.pmi(batch, candidates, model, step, trains=torch.is_grad_enabled())
        else:
            candidates, pmi = self.filtered(batch, given.candidates), given.pmi
            if isinstance(pmi, Compared):
                with torch.no_grad(), without_autocast(batch.h.device):
                    pmi = self.information.pmi(pmi)
            lesson = None if given.choice is None else self._taught(batch, candidates, given.choice, model)
        with torch.no_grad():
            scores = self.scores(lookup, model, candidates)
            ratio = density_ratio(pmi, candidates.per_density, self.n_entities)
            # One over how often each is a candidate, and on purpose over how likely it is a positive.
            odds = 1 + ratio
            if self.discount != 1:
                odds.pow_(self.discount)
            weight = torch.div(candidates.per_density, odds, out=odds)
            hardness = self.alpha * scores
        negatives = self.drawn(candidates, hardness, weight, step, of_pool, Debiasing(pmi, ratio, lesson))
        if not self.corrected:
            negatives = replace(negatives, log_weight=None)
        if lesson is None or not self.gradient:
            return negatives
        trace: Trace = negatives.trace
        return replace(negatives, through=self._through(lesson, ratio, trace.perturbed, trace.positions, scores))

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The contrastive loss, and that of the sampler of the pool."""
        of_pool = super().loss(lookup, negatives, s_pos, s_neg, model, step)
        lesson = negatives.trace.more.lesson
        if lesson is None or not self.contrastive:
            return of_pool
        given = lesson.pmi, lesson.log_density, lesson.excluded, lesson.positive, lesson.has_positive
        return info_nce(*given) + of_pool

    def _recall(self, incompatible: Any) -> None:
        """After weights were loaded: since which step it compares with what it does."""
        self.forget()
        self._since = int(self.held_since)

    def relations(self, model: Model, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n relation_width"]:
        """What guides the attention: the vectors of relations, or zeros in the ablation `guidance`."""
        vectors = model.relations(ids).detach()
        return vectors if self.guidance else torch.zeros_like(vectors)

    def foretold(self, batch: Batch, step: int) -> Int[Tensor, " n"] | None:
        """The candidates; None where it compares by structure, of which it keeps a summary of every entity."""
        return super().foretold(batch, step) if self.modalities else None

    def given(self, model: Model, ids: Int[Tensor, " n"]) -> Given:
        """What is known of entities: their tokens, or the structural vectors where no modality is read."""
        if self.modalities:
            # Zeros where nothing is are for the gradient alone.
            fill = torch.is_grad_enabled()
            return Given(tuple(modality.gather(ids, fill=fill) for modality in self.modalities.values()))
        return Given((), model.entities(ids).vectors[:, 0].detach())

    @torch.no_grad()
    def pmi(
        self, batch: Batch, candidates: Candidates, model: Model, step: int, *, trains: bool = False
    ) -> Float[Tensor, "B C"]:
        """The pointwise mutual information of each row's true entity and its candidates.

        Args:
            batch, candidates, model, step: as in `draw`.
            trains: the step trains the sampler, and may begin a block.
        """
        if trains:
            self._hold_what_is_learnt(batch, step, model)
        information = self._compares_by(batch, step)
        with without_autocast(candidates.pool.device):
            if information.attention is None:
                return information.pmi(self._compared(information, batch, candidates, model))
            if information is self.held_information and self.holds and self._batches is not None:
                ahead = self._read_ahead(self.block(step), candidates, model)
                if ahead.pmi is not None:
                    return ahead.pmi.index_select(0, ahead.places[step])
            order = torch.argsort(batch.relation_index, stable=True)
            rows = Rows(
                self.relations(model, batch.relations),
                batch.relation_counts,
                batch.relation_index.index_select(0, order),
                batch.target.index_select(0, order),
                batch.head.index_select(0, order).long(),
            )
            typed = candidates.of_relations(batch.relations)
            encoded = partial(self._encode, self.information, model)
            found = self.information.pmi_read(rows, candidates.pool, typed, encoded, limit=self._limit)
            return torch.empty_like(found).index_copy_(0, order, found)

    def _compares_by(self, batch: Batch, step: int) -> Information:
        """What a batch is compared by in a step: what was learnt some steps ago, if it is the training's own."""
        held = self.modalities and batch.step == step and self._since == self._start(step)
        return self.held_information if held else self.information

    def _compared(self, information: Information, batch: Batch, candidates: Candidates, model: Model) -> Compared:
        """What decides the pmi, where no relation decides what an entity is."""
        typed = candidates.typed
        ids = torch.cat([batch.target, candidates.pool, typed.flatten()])
        parts = len(batch), len(candidates.pool), typed.numel()
        own, pool, listed = self._columns(information, ids, model).split(parts)
        weights = information.weights(self.relations(model, batch.relations)).index_select(0, batch.relation_index)
        return Compared(weights, own, pool, listed.unflatten(0, typed.shape), candidates.group)

    def _columns(self, information: Information, ids: Int[Tensor, " n"], model: Model) -> Float[Tensor, "n WT"]:
        """Some entities, from the table of all of them where it is held and costs less than what it spares."""
        if information is self.held_information and self.n_entities <= self.lag * len(ids):
            table = self._table(model)
            if table is not None:
                return table.columns.index_select(0, ids)
        return self._encode(information, model, ids).columns

    def _encode(self, information: Information, model: Model, ids: Int[Tensor, " n"]) -> Encoded:
        return information.encode(self.given(model, ids))

    def _table(self, model: Model) -> Encoded | None:
        """All entities, encoded by what is held; None where they would take more than half of `memory_mb`."""
        information = self.held_information
        if self._encoded is None and self.n_entities * information.reals_encoded <= self._limit // 2:
            everyone = torch.arange(self.n_entities, device=self.held_since.device)
            self._encoded = information.encode_all(everyone, partial(self.given, model), limit=self._limit // 2)
        return self._encoded

    def _start(self, step: int) -> int:
        """The step since which it compares with what was learnt by then: the first of its block, or of every 200."""
        length = self.hold if self.information.attention is not None else self.lag
        return step // length * length

    @torch.no_grad()
    def _hold_what_is_learnt(self, batch: Batch, step: int, model: Model) -> None:
        """At the start of a block of the training whose batch this is."""
        start = self._start(step)
        if not self.modalities or batch.step != step or self._since == start:
            return
        if self._since < 0 or start // self.lag != self._since // self.lag:
            self._encoded = None
            for held, now in zip(self.held_information.buffers(), self.information.parameters(), strict=True):
                held.copy_(now)
        if self.information.attention is not None:
            everyone = torch.arange(self.n_relations, device=self.held_relations.device)
            self.held_relations.copy_(self.relations(model, everyone))
        self.held_since.fill_(start)
        self._since, self._block = start, None

    def _read_ahead(self, block: int, candidates: Candidates, model: Model) -> Block:
        """The pmi of all rows of a block."""
        if self._block is not None and self._block.number == block:
            return self._block
        assert self._batches is not None
        steps = range(block * self.hold, (block + 1) * self.hold)
        batches = [self._batches(step) for step in steps]
        r, x = torch.cat([b.r for b in batches]), torch.cat([b.target for b in batches])
        head = torch.cat([b.head for b in batches])
        # On the host, where the batches are; sorted by relation.
        code, place = torch.unique((2 * r + head) * self.n_entities + x, return_inverse=True)
        if len(code) * (self.pool_size + self.typed) > self._limit:
            self._block = Block(block, None, {})
            return self._block
        of_row = code // (2 * self.n_entities)
        relations, index, counts = torch.unique_consecutive(of_row, return_inverse=True, return_counts=True)
        side = code // self.n_entities % 2
        device = candidates.pool.device
        relations, index, target, side, place = (
            x.to(device, non_blocking=True) for x in (relations, index, code % self.n_entities, side, place)
        )
        rows = Rows(self.held_relations.index_select(0, relations), counts.tolist(), index, target, side)
        typed = candidates.of_relations(relations)
        information = self.held_information
        table = self._table(model)
        encoded = partial(self._encode, information, model) if table is None else table.index_select
        found = information.pmi_read(rows, candidates.pool, typed, encoded, limit=self._limit)
        places = dict(zip(steps, place.split([len(b) for b in batches]), strict=True))
        self._block = Block(block, found, places)
        return self._block

    def lesson(self, batch: Batch, candidates: Candidates, model: Model, step: int) -> Lesson | None:
        """What a step trains with, with gradients; None where it trains the model alone."""
        if not self._teaches(step) or not torch.is_grad_enabled():
            return None
        return self._taught(batch, candidates, self._choice(batch, candidates, step), model)

    def _teaches(self, step: int) -> bool:
        return step % self.refresh < 2

    def _choice(self, batch: Batch, candidates: Candidates, step: int) -> Choice:
        """What the lesson of a step is about."""
        columns, share = self._lesson_columns(candidates, step)
        of_typed = columns[self.columns :] - len(candidates.pool)
        positives, has_positive = self.other_positives(batch, step)
        n_relations = len(batch.relations)
        kind = batch.relation_index + n_relations * batch.head
        rows, which, kinds = self._lesson_rows(kind, 2 * n_relations, has_positive, step)
        there, which = which >= 0, which.clamp(min=0)
        group = kind.new_zeros(2 * n_relations).index_copy(0, kind, candidates.group).index_select(0, kinds)
        typed = candidates.typed.index_select(0, group).index_select(1, of_typed)
        relations = batch.relations.index_select(0, kinds % n_relations)
        positives, has_positive = positives.index_select(0, rows), has_positive.index_select(0, rows) & there
        return Choice(rows, columns, there, which, relations, typed, share, positives, has_positive)

    def _taught(self, batch: Batch, candidates: Candidates, choice: Choice, model: Model) -> Lesson:
        """The lesson about what was chosen, with gradients."""
        rows, columns, typed = choice.rows, choice.columns, choice.typed
        own, pool = batch.target.index_select(0, rows), candidates.pool.index_select(0, columns[: self.columns])
        relations, information = self.relations(model, choice.relations), self.information
        with without_autocast(batch.h.device):
            parts = [own, choice.positives, typed.flatten(), pool]
            encoded = information.encode(self.given(model, torch.cat(parts)))
            pmi = information.pmi_of_few(relations, choice.which, encoded, typed.shape[1])
        log_density = candidates.log_density[rows[:, None], columns] + choice.share
        excluded = candidates.excluded[rows[:, None], columns]
        of_rows = pmi[:, :-1], log_density, excluded, pmi[:, -1], choice.has_positive
        return Lesson(rows, columns, choice.there, *of_rows)

    def _lesson_rows(
        self, kind: Int[Tensor, " B"], n_kinds: int, has_positive: Bool[Tensor, " B"], step: int
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " k"]]:
        """Rows of few relations and sides, so that what they compare is read under these for all of them at once.

        Args:
            kind: the relation and the side of each row as one number below `n_kinds`.
            n_kinds: see there.
            has_positive: whether a row has something to learn from.
            step: of the lesson.

        Returns:
            rows at random, first of those that have something to learn from; which of the chosen kinds each is of, -1
            where it is of none; and these, chosen by how many of their rows have something to learn from.
        """
        device = kind.device
        stream = self.stream(step, "rows", device=device)
        weight = torch.full((n_kinds,), _TINY, device=device)
        weight.index_add_(0, kind, has_positive.float())
        absent = torch.ones_like(weight, dtype=torch.bool).index_fill(0, kind, False)
        chance = weight.log() + gumbel_noise(weight.shape, stream, device)
        kinds = chance.masked_fill(absent, -torch.inf).topk(min(_KINDS, len(chance))).indices
        chosen = torch.full_like(chance, -1, dtype=torch.long)
        chosen = chosen.index_copy(0, kinds, torch.arange(len(kinds), device=device))
        which = chosen.index_select(0, kind)
        first = 2 * (which >= 0) + has_positive + torch.rand(len(kind), generator=stream, device=device)
        rows = first.topk(min(self.rows, len(kind))).indices
        return rows, which.index_select(0, rows), kinds

    def _lesson_columns(self, candidates: Candidates, step: int) -> tuple[Int[Tensor, " c"], Float[Tensor, " c"]]:
        """Candidates at random that a lesson is about, those of the pool first; and ln of how many each stands for."""
        n_pool, n_typed = len(candidates.pool), candidates.typed.shape[1]
        some = min(_TYPED, n_typed)
        columns = distinct(self.seed, "lesson", step, n=n_pool, size=self.columns)
        typed = distinct(self.seed, "lesson typed", step, n=n_typed, size=some) + n_pool
        share = torch.tensor([self.columns / n_pool, some / max(1, n_typed)]).log()
        share = share.repeat_interleave(torch.tensor([self.columns, some]))
        device = candidates.pool.device
        return torch.cat([columns, typed]).to(device, non_blocking=True), share.to(device, non_blocking=True)

    def other_positives(self, batch: Batch, step: int) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Another positive of each row's query, uniform; the row's own entity where there is none, and False."""
        device = batch.r.device
        # The name of the stream is older than the name of what it is for; it decides the numbers.
        stream = self.stream(step, "fellow", device=device)
        return self.index.batch_other_positives(batch, torch.rand(len(batch), generator=stream, device=device))

    def _through(
        self,
        lesson: Lesson,
        ratio: Float[Tensor, "B C"],
        perturbed: Float[Tensor, "B C"],
        positions: Int[Tensor, "B K"],
        scores: Float[Tensor, "B C"],
    ) -> Float[Tensor, "B K"]:
        """Zeros that give the pmi of the lesson the gradient of the draw, weighed as if all rows were there."""
        rows = lesson.rows
        weight = self.discount * len(perturbed) * lesson.there / lesson.there.sum()
        # The slope of ln(1 + rho) in the pmi, the mean taken as it is.
        ratio = ratio[rows[:, None], lesson.columns]
        slope = weight[:, None] * ratio / (1 + ratio)
        change = slope * (lesson.pmi.detach() - lesson.pmi)
        moved = perturbed.index_select(0, rows).index_add(1, lesson.columns, change.to(perturbed.dtype))
        drawn = positions.index_select(0, rows)
        zeros = straight_through_top_k(moved, drawn, scores.index_select(0, rows))
        return scores.new_zeros(positions.shape).index_copy(0, rows, zeros)

    @property
    def _limit(self) -> int:
        """`memory_mb` in reals."""
        return int(self.memory_mb * 2**18)

    @torch.no_grad()
    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """Similarities in every term, how much each counts, and the attention maps."""
        information, names = self.information, self.information.terms
        relations = self.relations(model, batch.r)
        targets, others = (information.encode(self.given(model, x)) for x in (batch.target, ids))
        weights = information.weights(relations)
        # The largest weight of a term, so that what it is multiplied by lies between -1 and 1.
        width = information.term_width
        scales = weights[:, : width * len(names)].unflatten(1, (len(names), width)).amax(2)
        vectors = (weights * information.read(relations, targets))[:, None]
        cosines = information.by_term(information.read_all(relations, others) * vectors) / scales[:, None]
        both = targets.present[:, None] & others.present
        cosines = torch.where(both, cosines, torch.nan)
        scales = scales * targets.present
        attention = information.attention
        maps = () if attention is None else attention.maps(relations, targets.tokens, names)
        return Evidence(
            dict(zip(names, cosines.unbind(2), strict=True)),
            dict(zip(names, scales.unbind(1), strict=True)),
            maps,
            "" if maps else NO_ATTENTION if self.modalities else NO_MODALITY,
        )

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.modalities, *super().reads]))

    def notes(self, batch: Batch) -> list[str]:
        if self.information.attention is None or not self.holds or self._batches is None:
            return super().notes(batch)
        held = self.hold * len(batch) * (self.pool_size + self.typed) / 2**18
        said = f"What a block of {self.hold} steps reads holds up to {held:,.0f} MiB."
        if held > self.memory_mb:
            said = f"What a block of {self.hold} steps reads would hold up to {held:,.0f} MiB, more than "
            said += f"sampler.memory_mb={self.memory_mb}: where it does, every step reads for itself."
        return [said, *super().notes(batch)]
