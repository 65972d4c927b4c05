"""Tasks of reinforcement learning: rollouts, returns, evaluation, resuming, and what a policy task refuses."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from environments import Counter, counters, limited
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from rmsprop import InputError, Rule, recipe
from rmsprop.cli.app import run as command
from rmsprop.lab import ActorCriticLoss, PolicyTask, Task, compare, find_lr, load_task, train
from rmsprop.lab.compute import Compute
from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.lab.findings.outcome import Judged, outcome
from rmsprop.lab.runs.interrupts import Interrupted
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import with_optimizer, with_recipe
from rmsprop.lab.tasks.cartpole import Network
from rmsprop.monitor.findings import Finding
from rmsprop.torch import RMSprop

DISCOUNT = 0.5


class Policy(nn.Module):
    """Scores of 0; the value of an observation is 100 · resets + steps."""

    def __init__(self, actions: int = 2) -> None:
        super().__init__()
        self.actions = actions
        self.weight = nn.Parameter(torch.tensor([100.0, 1.0]))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return 0 * self.weight.sum() + torch.zeros(len(observations), self.actions), observations @ self.weight


def counting(**changes: Any) -> PolicyTask:
    values: dict[str, Any] = {"model": Policy, "train": counters, "rollout": 6, "batch_size": 12, "updates": 3}
    return PolicyTask("counting", **{**values, "discount": DISCOUNT, "episodes": 3, **changes})


FEW: dict[str, Any] = {"updates": 20, "episodes": 2, "batch_size": 20}


def small(**changes: Any) -> PolicyTask:
    """CartPole with little of everything."""
    task = load_task("cartpole")
    assert isinstance(task, PolicyTask)
    return dataclasses.replace(task, **{**FEW, "epochs": 2, **changes})


def loop(task: Task, lr: float = 7e-4, seed: int = 0) -> TrainingLoop:
    return TrainingLoop(task, with_optimizer(lambda params: RMSprop(params, lr=lr, eps=1e-5)), seed)


@pytest.fixture(autouse=True)
def _in_a_new_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- rollouts ----------------------------------------------------------------------------------------------------------


def test_returns_end_with_the_episode_and_count_on_values_beyond_a_time_limit_and_a_rollout() -> None:
    """Episode 1 is cut by the limit at step 4; episode 2 ends at step 3; a rollout of 6 steps ends within both."""
    model = Policy()
    first, second, _ = counting().batches(model, 12, order=7)
    observations, (actions, returns, advantages) = first
    assert observations[::2].tolist() == observations[1::2].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3], [2, 0], [2, 1]]
    rewards = observations[:, 1] + 1 + 10 * actions  # of step t + 1
    for each in range(2):
        mine = rewards[each::2].tolist()
        sums = [0.0] * 6
        sums[5] = mine[5] + DISCOUNT * (200 + 2)  # the rollout ends: the value of the observation after it
        sums[4] = mine[4] + DISCOUNT * sums[5]
        sums[3] = mine[3] + DISCOUNT * (100 + 4)  # cut: the value of the episode's last observation, not of the next
        for t in (2, 1, 0):
            sums[t] = mine[t] + DISCOUNT * sums[t + 1]
        assert returns[each::2].tolist() == pytest.approx(sums)
    assert torch.equal(advantages, returns - observations @ model.weight)
    observations, (actions, returns, _) = second
    assert observations.tolist()[:4] == [[2, 2], [2, 2], [3, 0], [3, 0]]
    assert returns[:2].tolist() == (3 + 10 * actions[:2]).tolist()  # the last step of an episode that ended


def test_the_loss_is_that_of_a2c() -> None:
    scores, values = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([0.5, 1.0])
    actions, returns, advantages = torch.tensor([1, 0]), torch.tensor([2.0, 0.0]), torch.tensor([1.5, -1.0])
    p = torch.softmax(scores.double(), 1)
    policy = -(1.5 * p[0, 1].log() + -1.0 * p[1, 0].log()) / 2
    entropy = -(p * p.log()).sum(1).mean()
    loss = ActorCriticLoss(0.25, 0.1)((scores, values), (actions, returns, advantages))
    assert float(loss) == pytest.approx(float(policy + 0.25 * (1.5**2 + 1) / 2 - 0.1 * entropy), rel=1e-6)


def test_a_rollout_is_played_by_the_model_of_that_moment() -> None:
    model = Policy()
    batches = counting().batches(model, 12, order=0)
    next(batches)
    with torch.no_grad():
        model.weight.zero_()
    _, (_, returns, advantages) = next(batches)
    assert torch.equal(advantages, returns)


def test_the_seed_decides_environments_actions_and_model() -> None:
    def trained(seed: int, lr: float = 7e-4) -> list[Any]:
        training = loop(small(epochs=1, updates=5), lr, seed)
        return [record for records in training.run() for record in records]

    def losses(records: list[Any]) -> list[Any]:
        return [record["loss"] for record in records if record["kind"] == "loss"]

    first = trained(0)
    assert losses(first) == losses(trained(0))
    assert losses(first)[0] != losses(trained(1))[0]
    task, model = small(), Network(4, 2)
    one, again, other = (next(task.batches(model, 20, order))[0] for order in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len({tuple(row) for row in one[:4].tolist()}) == 4  # the environments of a batch differ
    faster = losses(trained(0, lr=0.1))
    assert faster[0] == losses(first)[0]  # the same environments, actions and model
    assert faster[1] != losses(first)[1]


def test_an_evaluation_is_the_mean_return_of_whole_episodes() -> None:
    task = counting()
    found = task.evaluate(Policy(), "validation", 12, Compute())
    assert found.metric == 1 + 2 + 3 + 4  # argmax of equal scores: action 0, and the first episode is cut at step 4
    assert found.loss == -10
    drawn = counting(samples=True, episodes=30)
    values = [drawn.evaluate(Policy(), part, 12, Compute()).metric for part in ("validation", "test", "validation")]
    assert values[0] == values[2] != values[1]
    assert 10 < values[0] < 50  # of 4 actions, some are 1
    uneven = counting(
        validation=lambda count: SyncVectorEnv(
            [partial(limited, limit) for limit in range(2, 2 + count)],
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
    )
    assert uneven.evaluate(Policy(), "validation", 12, Compute()).metric == pytest.approx((3 + 6 + 10) / 3)
    cartpole = small()
    model = cartpole.model()
    scores = {part: cartpole.evaluate(model, part, 20, Compute()).metric for part in ("validation", "test")}
    assert scores["validation"] != scores["test"]
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    assert np.isnan(cartpole.evaluate(model, "validation", 20, Compute())[:2]).all()


# -- training ----------------------------------------------------------------------------------------------------------


def test_cartpole_is_learned() -> None:
    recipe_ = recipe("a2c-sb3").changed(lr=3e-3)
    training = TrainingLoop(small(updates=200, epochs=1, episodes=5, batch_size=40), with_recipe(recipe_), seed=0)
    before = training.evaluate("test").metric
    for _ in training.run():
        pass
    assert before < 30
    assert training.evaluate("test").metric > 150


def without_times(records: list[Any]) -> list[Any]:
    times = ("seconds", "step_us", "optimizer_us")
    return [{k: v for k, v in record.items() if k not in times} for record in records]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", ["cartpole", "cartpole-dqn"])
def test_an_interrupted_run_goes_on_from_its_last_epoch_bit_for_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmsprop.lab.runs.checkpoints.Saver.due", lambda _: True)
    task, rule = dataclasses.replace(load_task(name), **FEW, epochs=3), recipe("a2c-baselines")
    whole = train(task, rule, out="whole")

    def interrupt(training: TrainingLoop, _: Any) -> None:
        if training.step == 33:  # within the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(task, rule, out="part", listen=interrupt)
    steps: list[int] = []
    part = train(task, rule, out="part", resume=True, listen=lambda training, _: steps.append(training.step))
    assert steps[0] == 21  # the first after the last whole epoch
    assert without_times(part.records) == without_times(whole.records)
    for a, b in zip(part.load_model(task).parameters(), whole.load_model(task).parameters(), strict=True):
        assert torch.equal(a, b)
    assert part.summary["test_metric"] == whole.summary["test_metric"]


@pytest.mark.usefixtures("no_figures")
def test_a_run_says_its_return() -> None:
    run = train(small(), recipe("a2c-sb3"), out="run")
    first, *_, last = (record for record in run.records if record["kind"] == "epoch")
    assert run.sentences[0].endswith(f"on the validation data: return {last['validation_metric']:.4g}.")
    assert run.summary["metric_kind"] == "return"
    assert first["separate_losses"]
    assert first["validation_loss"] == -first["validation_metric"]
    assert run.report().exists()


def test_losses_of_training_and_validation_are_not_compared() -> None:
    """Otherwise, a loss of 100 beside a return of -20 would be a training that ran away."""
    epoch = {"kind": "epoch", "step": 0, "epoch": 0, "validation_loss": 20.0, "validation_metric": -20.0}
    losses = [{"kind": "loss", "step": i, "epoch": i / 4, "loss": 100.0} for i in (1, 2, 3)]
    losses[0]["first_loss"] = 1.0
    assert LossHistory([epoch, *losses]).has_scale  # type: ignore[list-item]
    assert not LossHistory([{**epoch, "separate_losses": True}, *losses]).has_scale  # type: ignore[list-item]


def findings_of(returns: tuple[int, ...]) -> list[Finding]:
    records: list[Any] = [{"kind": "loss", "step": 1, "epoch": 0.5, "loss": 1.0, "first_loss": 1.0}]
    for i, each in enumerate(returns):
        records.append({"kind": "epoch", "epoch": i, "validation_loss": -each, "validation_metric": each})
    records[1]["separate_losses"] = True
    return list(outcome(Judged(LossHistory(records), {"lr": 1e-3}, "return", higher_is_better=True, moved=2.0)))


@pytest.mark.parametrize(
    ("returns", "kind", "cause", "remedy"),
    [
        (
            (9, 300, 20),
            "got worse",
            "steps at lr = 0.001 are too long: they changed the model",
            "RMSprop(..., lr=0.0001)",
        ),
        ((9, 9, 9), "learned nothing", "steps are long enough to move the weights", "train for more epochs"),
    ],
)
def test_a_finding_about_a_return_claims_nothing_of_the_training_loss(
    returns: tuple[int, ...], kind: str, cause: str, remedy: str
) -> None:
    (found,) = findings_of(returns)
    assert found.kind == kind
    assert found.cause.startswith(cause)
    assert found.remedy.startswith(remedy)


def test_a_policy_that_was_good_by_chance_before_its_training_has_learned() -> None:
    assert not findings_of((500, 80, 500))


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("lr", [1e30, 1e-12])
def test_a_training_that_fails_is_told(lr: float) -> None:
    run = train(small(epochs=1), Rule(lr=lr), out="run")
    assert run.summary["reason"] == ("not finite" if lr > 1 else "learned nothing")
    if lr < 1:
        assert "find-lr" not in run.findings[0]["remedy"]


@pytest.mark.usefixtures("no_figures", "no_workers")
def test_optimizers_are_compared_by_their_return() -> None:
    rates, task = (1e-4, 1e-3, 1e-2), counting(model=lambda: Network(2, 2), updates=2, epochs=1)
    run = compare(task, optimizers=("Adam",), learning_rates=rates, tuning_seeds=1, seeds=5, out="run")
    assert run.summary["metric"] == "return"
    assert [score["optimizer"] for score in run.summary["scores"]] == ["RMSprop", "Adam"]
    assert all(score["metric"] > 0 for score in run.summary["scores"])
    assert run.sentences[0].startswith("RMSprop reaches a test return of ")


def test_a_range_test_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["find-lr", "cartpole"]) == 2
    assert capsys.readouterr().err.strip() == (
        "rmsprop: the task must be one with a fixed set of data: the loss at one rate must be comparable with the loss "
        "at another, got cartpole, whose model generates its batches; compare a few rates by their return: rmsprop "
        "compare cartpole --lrs 0.0003 0.001 0.003"
    )
    with pytest.raises(InputError, match="whose model generates its batches"):
        find_lr(small())


# -- what is refused ---------------------------------------------------------------------------------------------------


class OneOutput(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)


class Pictures(Counter):
    """Has an observation that is no array."""

    observation_space: Any = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(0, 1)})

    def _observation(self) -> Any:
        return {"x": np.zeros(1, dtype=np.float32)}


class Continuous(Counter):
    action_space: Any = gymnasium.spaces.Box(-1, 1)


class FromOne(Counter):
    action_space: Any = gymnasium.spaces.Discrete(2, start=1)


def of(kind: Any) -> Any:
    return lambda count: SyncVectorEnv([kind] * count, autoreset_mode=AutoresetMode.SAME_STEP)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 10}, "Task.batch_size must be a multiple of 6, the steps of a rollout, got 10; 48 are 8"),
        ({"updates": 0}, "Task.updates must be "),
        ({"discount": 1.5}, "Task.discount must be a number from 0 to 1, got 1.5"),
        ({"metric": len}, "Task.metric must be omitted: a policy is scored by its return"),
        ({"train": 3}, "Task.train must be the id of an environment, or a function from a number to a gymnasium"),
        ({"train": "CartPole-v9"}, "the environment CartPole-v9 must be one that can be created, got VersionNotFound"),
        ({"train": lambda _: 1 / 0}, r"Task.train\(1\) must be one that can be created, got ZeroDivisionError"),
        ({"train": lambda _: None}, r"Task.train\(1\) must be a gymnasium.vector.VectorEnv of 1 environments, got a N"),
        ({"train": lambda _: counters(2)}, r"Task.train\(1\) must be a .* of 1 environments, got 2 of them"),
        ({"train": lambda count: counters(count, mode=AutoresetMode.NEXT_STEP)},
         "Task.train must be environments that reset in the step that ends an episode, got AutoresetMode.NEXT_STEP; "),
        ({"test": lambda count: counters(count, mode=AutoresetMode.DISABLED)}, "Task.test must be environments that r"),
        ({"train": of(Continuous)}, r"Task.train must be environments with discrete actions from 0, got Box\("),
        ({"train": of(FromOne)}, r"Task.train must be environments with discrete actions from 0, got Discrete\(2, sta"),
        ({"train": of(Pictures)}, "the observations of the environments must be arrays, got a dict; wrap"),
        ({"model": OneOutput},
         r"what Task.model\(\) returns must be scores \(1 × 2\) and values \(1\) for 1 observations, got a Tensor"),
        ({"model": lambda: Policy(3)}, r"what Task.model\(\) returns must be .*, got shapes \[\(1, 3\), \(1,\)\]"),
        ({"model": lambda: Network(4, 2)}, "task counting must be able to play one rollout of Task.train, got Runtime"),
        ({"loss": lambda output, _: output}, r"Task.loss\(\) must be a one-element Tensor with a gradient, got a tupl"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_any_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        counting(**changes).try_out()
    assert "\n" not in str(error.value)


def test_the_batch_size_of_the_command_line_is_checked() -> None:
    counting().try_out(6)
    with pytest.raises(InputError, match="--batch-size must be a multiple of 6"):
        counting().try_out(7)


def test_an_episode_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmsprop.lab.episodes.LONGEST", 50)
    with pytest.raises(InputError, match=r"an episode of Task.test must be one that ends within 50 steps, got a long"):
        counting(test=lambda count: counters(count, limit=None)).evaluate(Policy(), "test", 12, Compute())


@pytest.mark.parametrize(
    ("task", "missing", "extra"),
    [
        ("cartpole", "gymnasium", "rl"),
        ("lunar", "Box2D", "rl"),
        ("pong", "gymnasium", "atari"),
        ("pong", "ale_py", "atari"),
    ],
)
def test_a_missing_package_is_one_line_with_the_command(
    task: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing or "lunar_lander" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert command(["train", task]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith(f"pip install 'rmsprop[{extra}]'")
    assert missing.lower() in line.lower()


# -- built-in tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "module"), [("cartpole", "gymnasium"), ("lunar", "Box2D"), ("pong", "ale_py")])
def test_built_in_policies_train(name: str, module: str) -> None:
    if find_spec(module) is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"no {module}: pip install 'rmsprop[dev]'")
    task = load_task(name)
    assert isinstance(task, PolicyTask)
    task = dataclasses.replace(task, batch_size=10)
    task.try_out()
    training = loop(task)
    batches = task.batches(training.model, task.batch_size, 0)
    for _ in range(2):
        batch = next(batches)
        assert len(batch[0]) == len(batch[1][1]) == task.batch_size
        assert np.isfinite(training._train_on(batch)[0])
