"""Tasks of Q-learning: replay memory, targets, exploration, resuming, and what is refused."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter as Count
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from environments import Counter, counters
from gymnasium.wrappers import FrameStackObservation
from torch import Tensor, nn

from rmsprop import InputError, recipe
from rmsprop.cli.app import run as command
from rmsprop.lab import QLearningTask, TDLoss, compare, load_task
from rmsprop.lab.compute import Compute
from rmsprop.lab.q_learning import QLearner
from rmsprop.lab.rollouts import Player
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.lab.setup import with_optimizer, with_recipe
from rmsprop.lab.tasks.pong import games
from rmsprop.torch import RMSprop


class Values(nn.Module):
    """The value of action a in (resets, steps) is 100 · resets + steps + a."""

    def __init__(self, actions: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([100.0, 1.0]))
        self.actions = actions

    def forward(self, observations: Tensor) -> Tensor:
        return (observations.reshape(len(observations), -1)[:, -2:] @ self.weight)[:, None] + torch.arange(self.actions)


def counting(**changes: Any) -> QLearningTask:
    values: dict[str, Any] = {
        "model": Values, "train": counters, "batch_size": 64, "updates": 3, "episodes": 3, "discount": 0.5,
        "environments": 2, "rollout": 3, "memory": 200, "warm_up": 20, "exploration": 24, "target_updates": 2,
    }  # fmt: skip
    return QLearningTask("counting", **{**values, **changes})


def small(**changes: Any) -> QLearningTask:
    """CartPole with little of everything."""
    task = load_task("cartpole-dqn")
    assert isinstance(task, QLearningTask)
    few: dict[str, Any] = {"updates": 20, "episodes": 2, "epochs": 2, "warm_up": 100, "memory": 1000}
    return dataclasses.replace(task, **{**few, **changes})


@pytest.fixture(autouse=True)
def _in_a_new_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- replay memory -----------------------------------------------------------------------------------------------------


class Stacked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observes its last three observations; the first of an episode stands for those before it."""

    def __init__(self) -> None:
        super().__init__(FrameStackObservation(Counter(), 3))


class Reversed(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observes the newest of three observations first."""

    def __init__(self) -> None:
        super().__init__(Stacked())

    def observation(self, observation: Any) -> Any:
        return observation[::-1]


class Recorder(Player):
    """Keeps every transition as text: observation, action, reward, whether the episode ended, observation after it."""

    def step(self, actions: Tensor) -> Any:
        before = self.observations
        rewards, terminated, truncated, known = result = super().step(actions)
        for e, action in enumerate(actions.tolist()):
            ended = bool(terminated[e] or truncated[e])
            after = known["final_obs"][e] if ended else self.observations[e]
            self.found.append(shown(before[e], action, rewards[e], terminated[e], after))
        return result

    found: list[str]


def shown(seen: Any, action: int, reward: float, terminated: Any, after: Any) -> str:
    return f"{seen.tolist()} {action} {float(reward)} {bool(terminated)} {after.tolist()}"


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("steps", [10, 200])
def test_sampled_transitions_are_those_played_and_the_newest(frames: int, steps: int) -> None:
    task = counting(frames=frames, memory=80)
    learner = QLearner(task, Values())
    player = Recorder(Values(), counters(2, kind=Stacked if frames > 1 else Counter), 0)
    player.found = []
    learner.begin(player)
    for _ in range(steps):
        learner.take(player, player.random_actions())
    assert learner._memory is not None
    drawn = learner._memory.sample(4000, torch.Generator().manual_seed(0))
    counts = Count(shown(*each) for each in zip(*drawn, strict=True))
    newest = set(player.found[-20:])  # entries that begin or end an episode take space, too
    assert newest <= set(counts) <= set(player.found)
    if steps == 200:
        assert not set(counts) & set(player.found[:-80])
    shares = [counts[each] / player.found[-20:].count(each) for each in newest]
    assert max(shares) < 2 * min(shares)  # all are equally likely


def test_stacked_images_of_a_game_are_kept_once_and_rebuilt() -> None:
    if find_spec("ale_py") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("no ale_py: pip install 'rmsprop[dev]'")
    task = load_task("pong-dqn")
    assert isinstance(task, QLearningTask)
    model = task.model()
    learner = QLearner(task, model)
    vector = games(clip=True)(1)
    player = Player(model, vector, 0)
    learner.begin(player)
    seen = []
    for _ in range(20):
        seen.append(player.observations[0])
        learner.take(player, player.random_actions())
    assert learner._memory is not None
    drawn = learner._memory.sample(100, torch.Generator().manual_seed(0))
    places = [next(i for i, each in enumerate(seen) if torch.equal(each, x)) for x in drawn.observations]
    assert len(set(places)) > 15
    for place, after in zip(places, drawn.after, strict=True):
        assert place == 19 or torch.equal(after, seen[place + 1])
    assert learner._memory._kept.shape == (1, 100_000, 84, 84)
    vector.close()


# -- targets and exploration -------------------------------------------------------------------------------------------


def test_targets_end_with_the_episode_and_count_on_values_after_a_time_limit() -> None:
    task = counting(updates=1, warm_up=60)
    ((observations, (actions, targets)),) = task.batches(Values(), 200, order=0)
    seen = set()
    for (resets, step), action, target in zip(observations.tolist(), actions.tolist(), targets.tolist(), strict=True):
        reward = step + 1 + 10 * action
        ends = resets % 2 == 0 and step == 2
        highest = 100 * resets + step + 1 + 1  # of action 1, at the next step; a limit of 4 steps cuts odd episodes
        assert target == reward + (0 if ends else 0.5 * highest)
        seen.add((resets % 2, step))
    assert {(0, 2), (1, 3)} <= seen  # an end, and a step that the time limit cut


def test_the_loss_is_the_huber_loss_of_the_actions_taken() -> None:
    values = torch.tensor([[1.0, 2.0], [0.0, -1.0], [5.0, 0.0]], requires_grad=True)
    actions, targets = torch.tensor([1, 0, 0]), torch.tensor([2.5, 3.0, 1.0])
    TDLoss()(values, (actions, targets)).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, -0.5], [-1.0, 0.0], [1.0, 0.0]]  # errors, clipped to ±1
    mean = TDLoss("mean")(values, (actions, targets))
    assert float(mean.detach()) == pytest.approx((0.5**2 / 2 + (3 - 0.5) + (4 - 0.5)) / 3)
    with pytest.raises(InputError, match=r"TDLoss\.reduction must be sum or mean, got 'none'"):
        TDLoss("none")  # type: ignore[arg-type]


def test_exploration_falls_after_the_warm_up_and_goes_on_over_epochs_as_does_the_memory() -> None:
    task = counting(epsilon=0.1)
    learner = task.source(Values())
    shares, memories = [], []
    for epoch in range(3):
        for _ in learner.batches(8, order=epoch):
            shares.append(round(learner.epsilon, 6))
        memories.append(learner._memory)
    assert all(memory is memories[0] for memory in memories)
    expected = [1 - 0.9 * min(1, 6 * (i + 1) / 24) for i in range(9)]  # 6 steps of both environments before an update
    assert shares == pytest.approx(expected)
    assert learner.state_dict()["counts"] == [20 + 9 * 6, 9]


def test_a_share_of_the_actions_is_random() -> None:
    player = Player(Values(), counters(4), 0)
    values = torch.tensor([[0.0, 1.0]]).expand(4, 2)
    drawn = torch.stack([player.explore(values, 0.5) for _ in range(2000)])
    assert drawn.float().mean().item() == pytest.approx(0.75, abs=0.02)
    assert player.explore(values, 0.0).tolist() == [1, 1, 1, 1]


def test_the_target_network_is_renewed_every_few_updates() -> None:
    model = Values()
    learner = counting().source(model)
    found = []
    for epoch in range(2):
        for _ in learner.batches(8, order=epoch):
            found.append(float(learner.state_dict()["target"]["weight"][0]))
            with torch.no_grad():
                model.weight.add_(1)
    assert found == [100, 100, 102, 102, 104, 104]
    assert not any(p.requires_grad for p in learner._target.parameters())


# -- training ----------------------------------------------------------------------------------------------------------


def test_cartpole_is_learned_by_dqn() -> None:
    changes = {"updates": 1500, "epochs": 1, "episodes": 5, "warm_up": 500, "exploration": 1500, "target_updates": 64}
    training = TrainingLoop(
        small(**changes, memory=10_000), with_optimizer(lambda params: RMSprop(params, lr=1e-3)), seed=2
    )
    before = training.evaluate("test").metric
    for _ in training.run():
        pass
    assert before < 20
    assert training.evaluate("test").metric > 80


def test_a_training_restores_memory_target_network_and_counts() -> None:
    def losses(training: TrainingLoop, epochs: int) -> list[Any]:
        found: list[Any] = []
        for records in training.run():
            found += [record["loss"] for record in records if record["kind"] == "loss"]
            if training.epoch == epochs:
                break
        return found

    task, setup = small(epochs=3, warm_up=50, memory=400, updates=30), with_recipe(recipe("dqn-nature"))
    whole, part, again = (TrainingLoop(task, setup, seed=0) for _ in range(3))
    expected = losses(whole, 3)
    assert losses(part, 2) == expected[:20]
    assert part.resumable
    torch.save(part.state_dict(), "state.pt")
    again.load_state_dict(torch.load("state.pt", weights_only=True))
    assert losses(again, 3) == expected[20:]
    for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("no_figures", "no_workers")
def test_optimizers_are_compared_by_their_return() -> None:
    rates, task = (1e-4, 1e-3, 1e-2), small(updates=2, epochs=1)
    run = compare(task, optimizers=("Adam",), learning_rates=rates, tuning_seeds=1, seeds=5, out="run")
    assert run.summary["metric"] == "return"
    assert all(score["metric"] > 0 for score in run.summary["scores"])


def test_a_range_test_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["find-lr", "cartpole-dqn"]) == 2
    assert "got cartpole-dqn, whose model generates its batches; compare a few rates" in capsys.readouterr().err


def test_an_evaluation_takes_the_best_action_or_explores() -> None:
    found = counting().evaluate(Values(), "validation", 8, Compute())
    assert found.metric == sum(step + 10 for step in (1, 2, 3, 4))  # action 1 has the higher value
    drawn = counting(evaluation_epsilon=0.5, episodes=30).evaluate(Values(), "validation", 8, Compute())
    assert 30 < drawn.metric < 49


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": 5}, "Task.memory must be at least 6 for 2 environments and 1 frames, got 5"),
        ({"epsilon": 1.5}, "Task.epsilon must be a number from 0 to 1, got 1.5"),
        ({"evaluation_epsilon": -1}, "Task.evaluation_epsilon must be "),
        ({"target_updates": 0}, "Task.target_updates must be a whole number >= 1, got 0"),
        ({"frames": 3, "train": partial(counters, kind=Reversed)},
         "the observations must be stacks of frames that move by one frame a step, the newest last, got others"),
        ({"frames": 3}, "Task.frames must be 1, the first dimension of the observations, got 3; 1 keeps whole"),
        ({"model": lambda: nn.Linear(2, 3)},
         r"what Task.model\(\) returns must be values of actions \(1 × 2\) for 1 observations, got shape \(1, 3\)"),
        ({"model": lambda: nn.LSTM(2, 2)}, r"what Task.model\(\) returns must be values of .*, got a tuple"),
        ({"model": lambda: nn.Linear(3, 2)}, "task counting must be able to play one rollout of Task.train, got Runti"),
        ({"loss": lambda output, _: output}, r"Task.loss\(\) must be a one-element Tensor with a gradient, got a Ten"),
        ({"train": 3}, "Task.train must be the id of an environment, or a function from a number to a gymnasium"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_any_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        counting(**changes).try_out()
    assert "\n" not in str(error.value)
