"""How far a training is, and when things happen in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds beside the tensors.

    Attributes:
        step: steps done.
        best_mrr, best_step: the best validation so far.
        stale: evaluations since then.
        train_seconds, evaluate_seconds: elapsed, earlier sittings included.
        stopped: True once early stopping has ended the training.
        loss_sum, loss_steps: the losses of the log interval that is under way, and how many there are.
        sampler_loss_sum, sampler_loss_steps: of those the sampler's own terms, which it may not have in every step.
    """

    step: int = 0
    best_mrr: float = -1.0
    best_step: int = 0
    stale: int = 0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    stopped: bool = False
    loss_sum: float = 0.0
    loss_steps: int = 0
    sampler_loss_sum: float = 0.0
    sampler_loss_steps: int = 0

    def mean_losses(self) -> dict[str, float]:
        """The losses of the log interval so far, as a row of `metrics.jsonl` has them.

        Returns:
            `loss`, the mean over the steps; `model_loss`, the same without the sampler's own term; `sampler_loss`, the
            mean of that term over the steps that have it, left out where none has. So neither of the two depends on how
            many of an interval's steps train the sampler, as `loss` does.
        """
        found = {
            "loss": self.loss_sum / self.loss_steps,
            "model_loss": (self.loss_sum - self.sampler_loss_sum) / self.loss_steps,
        }
        if self.sampler_loss_steps:
            found["sampler_loss"] = self.sampler_loss_sum / self.sampler_loss_steps
        return found


@dataclass(frozen=True)
class Plan:
    """When things happen, in steps.

    Attributes:
        steps: the last step.
        log_every, evaluate_every, checkpoint_every: intervals; the last step ends each of them.
        patience: evaluations without improvement after which training stops; 0 = never.
    """

    steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    patience: int

    def due(self, interval: int, step: int) -> bool:
        """Whether an interval ends with this many steps done."""
        return step % interval == 0 or step == self.steps

    def ends_log(self, step: int) -> bool:
        """Whether a log interval ends with this many steps done or with one more.

        Measurements are taken after these two steps. With alternating sides one of them replaces tails and the other
        heads; the last step alone would replace the same side in every interval of even length.
        """
        return self.due(self.log_every, step) or self.due(self.log_every, step + 1)
