"""The task "lunar": land a craft between two flags, by A2C."""

from rmsprop.lab.reinforcement import ActorCriticLoss, PolicyTask
from rmsprop.lab.tasks.cartpole import Network


def lunar() -> PolicyTask:
    """Return the task: land with one main engine and two at the sides, in a simulation of rigid bodies.

    Source: LunarLander-v3 of the package gymnasium, MIT, which needs Box2D. A return of 200 counts as solved. Settings
    are those of RL Baselines3 Zoo: 8 environments, 5 steps, discount 0.995, entropy 1e-5. An epoch has 40,000 steps
    of the environments. The metric is the return.
    """
    loss = ActorCriticLoss(0.5, 1e-5)
    return PolicyTask("lunar", lambda: Network(8, 4), "LunarLander-v3", loss=loss, clip=0.5, discount=0.995, epochs=5)
