"""The task "pong-dqn": Atari's Pong from its pixels, by DQN."""

from torch import Tensor, nn

from rmsprop.lab.q_learning import QLearningTask
from rmsprop.lab.tasks.pong import games, hidden_layers


class Network(nn.Module):
    """The network of Mnih et al. 2015."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.body, self.values = hidden_layers(), nn.Linear(512, actions)

    def forward(self, images: Tensor) -> Tensor:
        """Return the values of the actions."""
        values: Tensor = self.values(self.body(images.float() / 255))
        return values


def pong_dqn() -> QLearningTask:
    """Return the task: the game of "pong", for a network of action values.

    Source: Pong of the package ale-py, GPL-2.0. Settings are those of Mnih et al. 2015 on a tenth of the memory, the
    warm-up and the exploration: 4 actions before an update, each repeated 4 times; 100,000 frames are kept, 0.7 GB; the
    target network is renewed every 10,000 actions, as in the published code; in evaluations, an action is
    random with a probability of 0.05. An epoch has 10,000 actions. The metric is the return.
    """
    return QLearningTask(
        "pong-dqn", lambda: Network(6), games(clip=True), games(clip=False), games(clip=False), epochs=100,
        updates=2500, environments=1, rollout=4, memory=100_000, frames=4, warm_up=5_000, exploration=100_000,
        epsilon=0.1, target_updates=2500, episodes=10, evaluation_epsilon=0.05,
    )  # fmt: skip
