"""The steps of a training run, and what follows each."""

import dataclasses
import logging
import math

from ml_collections import ConfigDict

log = logging.getLogger("mspn_jax")


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a run, and what follows each."""

    per_epoch: int
    last: int  # the number of steps of the whole run
    evaluate_every: int
    save_every: int
    stop_after: int  # the run ends after so many evaluations without a better AP; 0: never

    @classmethod
    def of(cls, config: ConfigDict, num_people: int) -> "Steps":
        per_epoch = math.ceil(num_people / config.batch_size)
        last = config.num_steps or config.num_epochs * per_epoch
        evaluate_every = config.eval.every_epochs * per_epoch or last
        return cls(
            per_epoch, last, evaluate_every, config.checkpoint.every_steps, config.stop_after
        )

    def is_evaluated(self, step: int) -> bool:
        return step % self.evaluate_every == 0 or step == self.last

    def is_saved(self, step: int) -> bool:
        return step % self.save_every == 0 or self.is_evaluated(step)

    def is_over(self, evaluated_step: int, best_step: int | None) -> bool:
        """Whether the run ends here: with its last step, or since AP no longer rises."""
        if evaluated_step >= self.last:
            return True
        if not self.stop_after or best_step is None:
            return False
        if evaluated_step - best_step < self.stop_after * self.evaluate_every:
            return False
        log.info(
            "ended at step %d: AP has not risen since step %d, for %d evaluations"
            " (config.stop_after)",
            evaluated_step,
            best_step,
            self.stop_after,
        )
        return True
