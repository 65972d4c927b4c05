"""Claims on real tasks, judged by comparisons with equal budgets and paired seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmsprop.lab.claims.claim import FALSE, ONLY_IF, TRUE, UNDECIDED, Bound, Number, Source, Statement

TASKS = ("digits", "vowels", "movies", "letters", "mnist", "shakespeare")
BEST_RATE = "best rate"
_MORE, _LESS = 1e-12, -1e-12


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingClaim(Statement):
    """A sentence about optimizers on real tasks.

    Parameters
    ----------
    tasks
        Built-in tasks that decide it.
    says
        Bounds of numbers such as "Adam's gain on RMSprop on digits", the paired difference of test scores. It is
        positive if Adam is better: in points of accuracy, or in percent of RMSprop's score where that is no accuracy.
    ablate
        Whether the comparison is that of the rules from RMSprop to Adam.
    """

    tasks: tuple[str, ...]
    ablate: bool = False

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The bounds of the sentence."""
        return self.says

    def judge(self, numbers: Mapping[str, Number]) -> str:
        """Return the verdict: true on all tasks, on some, on none; undecided if no interval decides."""
        found = {task: self._on(task, numbers) for task in self.tasks}
        holding = [task for task, status in found.items() if status == "holds"]
        if len(holding) == len(found):
            return TRUE
        if holding:
            others = [task for task in found if task not in holding]
            return f"{ONLY_IF}the task is {_either(holding)}; not shown on {_either(others)}"
        return FALSE if "fails" in found.values() else UNDECIDED

    def _on(self, task: str, numbers: Mapping[str, Number]) -> str:
        statuses = [b.status(numbers[b.number]) for b in self.says if b.number.endswith(f" on {task}")]
        if "fails" in statuses:
            return "fails"
        return "open" if "open" in statuses else "holds"

    def numbers(self, summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Number]:
        """Return the numbers of the bounds, from the summaries of the comparisons by task."""
        wanted = {bound.number for bound in self.says}
        found = {name: number for task in self.tasks for name, number in numbers_of(task, summaries[task]).items()}
        return {name: found[name] for name in found if name in wanted}


def numbers_of(task: str, summary: Mapping[str, Any]) -> dict[str, Number]:
    """Return the gains on RMSprop, see `TrainingClaim`, and RMSprop's best rate."""
    rmsprop = next(score for score in summary["scores"] if score["optimizer"] == "RMSprop")
    rate = rmsprop["lr"]
    found = {f"{BEST_RATE} on {task}": Number(rate, rate, rate)}
    unit = 0.01 if summary["metric"] == "accuracy" else 0.01 * rmsprop["metric"]
    unit *= 1 if summary["higher_is_better"] else -1
    for score in summary["scores"]:
        if score["interval"] is not None:
            found[_gain(score["optimizer"], task)] = _number(unit, score["difference"], *score["interval"])
    if whole := summary.get("all_switches"):
        found[_gain("all switches", task)] = _number(unit, whole["difference"], *whole["interval"])
    return found


def _gain(name: str, task: str) -> str:
    return f"{name}'{'' if name.endswith('s') else 's'} gain on RMSprop on {task}"


def _either(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _number(unit: float, mean: float, low: float, high: float) -> Number:
    low, high = sorted((low / unit, high / unit))
    return Number(mean / unit, low, high)


def _beyond(optimizers: Sequence[str], tasks: Sequence[str], **ends: float) -> tuple[Bound, ...]:
    return tuple(Bound(_gain(optimizer, task), **ends) for task in tasks for optimizer in optimizers)


_OTHERS = ("SGD", "momentum", "AdaGrad", "Adadelta", "Adam")

CLAIMS = (
    TrainingClaim(
        name="adam-better",
        sentence="Adam trains better than RMSprop.",
        source=Source("Kingma and Ba, Adam, section 6", "https://arxiv.org/abs/1412.6980"),
        expected="Momentum and bias correction help where they matter; both are switches of RMSprop as well.",
        tasks=TASKS,
        says=_beyond(("Adam",), TASKS, low=_MORE),
    ),
    TrainingClaim(
        name="sgd-generalises",
        sentence="SGD generalises better than RMSprop.",
        source=Source(
            "Wilson et al., The Marginal Value of Adaptive Gradient Methods", "https://arxiv.org/abs/1705.08292"
        ),
        expected="With both tuned alike, no difference on most of these tasks, and worse on sparse features.",
        tasks=TASKS,
        says=_beyond(("SGD",), TASKS, low=_MORE),
    ),
    TrainingClaim(
        name="momentum-generalises",
        sentence="SGD with momentum generalises better than RMSprop without.",
        source=Source(
            "Wilson et al., The Marginal Value of Adaptive Gradient Methods", "https://arxiv.org/abs/1705.08292"
        ),
        expected="It depends on the task.",
        tasks=TASKS,
        says=_beyond(("momentum",), TASKS, low=_MORE),
    ),
    TrainingClaim(
        name="sparse-data",
        sentence="RMSprop works well with sparse data: better than SGD with and without momentum.",
        source=Source("Dipta, Zettelkasten, RMSprop", "https://notes.roydipta.com/zettelkasten/rms-prop"),
        expected="Rare features get longer steps. AdaGrad, Adadelta and Adam do the same.",
        tasks=("movies",),
        says=_beyond(("SGD", "momentum"), ("movies",), high=_LESS),
        notes="AdaGrad, Adadelta and Adam tie with RMSprop on movies.",
    ),
    TrainingClaim(
        name="recurrent-networks",
        sentence="RMSprop is the best choice for recurrent networks.",
        source=Source(
            "Old Keras documentation, RMSprop: usually a good choice for recurrent networks", "removed in keras#12460"
        ),
        expected="On vowels, others do as well when tuned; on shakespeare, Adam and momentum do not.",
        tasks=("vowels", "shakespeare"),
        says=_beyond(_OTHERS, ("vowels", "shakespeare"), high=_LESS),
    ),
    TrainingClaim(
        name="reinforcement-learning",
        sentence="RMSprop is the best choice for reinforcement learning.",
        source=Source("Suggested by DQN, A3C and the defaults of A2C in Stable-Baselines3", "docs/recipes.md"),
        expected="On cartpole, four optimizers reach the largest return or nearly; seeds differ more than optimizers.",
        tasks=("cartpole",),
        says=_beyond(_OTHERS, ("cartpole",), high=_LESS),
    ),
    TrainingClaim(
        name="default-rate",
        sentence="The best learning rate of RMSprop is about 0.001, the default of Keras.",
        source=Source("Keras' default", "https://keras.io/api/optimizers/rmsprop"),
        expected="Best rates differ by task by a factor of 30, on a grid of half decades.",
        tasks=TASKS,
        says=tuple(Bound(f"{BEST_RATE} on {task}", 5e-4, 2e-3) for task in TASKS),
        notes="Best of the grid on validation data, with a rate that falls linearly to 0.",
    ),
    TrainingClaim(
        name="defaults-suffice",
        sentence="All parameters of RMSprop but the learning rate may stay at their defaults.",
        source=Source("Old Keras documentation, RMSprop", "removed in keras#12460"),
        expected="Momentum and bias correction are off by default; with them and a larger β the test score is higher.",
        tasks=("digits", "mnist"),
        ablate=True,
        says=tuple(Bound(_gain("all switches", task), high=0.0) for task in ("digits", "mnist")),
    ),
)
