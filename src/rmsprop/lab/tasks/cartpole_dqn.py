"""The task "cartpole-dqn": balance a pole on a cart, by DQN."""

from torch import nn

from rmsprop.lab.q_learning import QLearningTask


def cartpole_dqn() -> QLearningTask:
    """Return the task: the environment of "cartpole", for a network of action values.

    Source: CartPole-v1 of the package gymnasium, MIT. The number of steps is that of RL Baselines3 Zoo, and so are 2
    steps and 64 transitions of an update, the target network of 128 updates, memory and exploration. The network has
    two hidden layers of 128 units. An epoch has 5,000 steps of the environments. The metric is the return.
    """
    return QLearningTask(
        "cartpole-dqn", _network, "CartPole-v1", batch_size=64, epochs=10, updates=2500, environments=2, rollout=1,
        memory=100_000, warm_up=1000, exploration=8000, epsilon=0.04, target_updates=128,
    )  # fmt: skip


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))
