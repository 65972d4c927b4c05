"""DQN of the lab beside Stable-Baselines3's: targets, loss and weights after one update, on its replay memory."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

from rmsprop.lab import TDLoss, load_task
from rmsprop.lab.q_learning import targets
from rmsprop.lab.replay import Transitions
from rmsprop.torch import RMSprop

RATE, GAMMA = 1e-3, 0.97
RULE: dict[str, Any] = {"alpha": 0.95, "eps": 0.01, "centered": True}


def test_an_update_of_dqn_has_targets_loss_and_weights_of_stable_baselines3() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SB3 warns on import
        from stable_baselines3 import DQN

        theirs: Any = DQN(
            "MlpPolicy", "CartPole-v1", learning_rate=RATE, gamma=GAMMA, learning_starts=100, max_grad_norm=1e9,
            target_update_interval=150, seed=3, device="cpu",
            policy_kwargs={
                "optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": RULE, "net_arch": [128, 128],
            },
        )  # fmt: skip
        theirs.learn(400)
    ours = load_task("cartpole-dqn").model()
    ours.load_state_dict(theirs.q_net.q_net.state_dict())
    target = copy.deepcopy(ours)
    target.load_state_dict(theirs.q_net_target.q_net.state_dict())
    assert not torch.equal(next(ours.parameters()), next(target.parameters()))
    optimizer = RMSprop(ours.parameters(), lr=RATE, **RULE)
    optimizer.load_state_dict(copy.deepcopy(theirs.policy.optimizer.state_dict()))

    drawn = theirs.replay_buffer.sample(256)
    assert 0 < drawn.dones.sum() < 256
    actions = drawn.actions.flatten()
    flat = Transitions(
        drawn.observations, actions, drawn.rewards.flatten(), drawn.dones.flatten().bool(), drawn.next_observations
    )
    loss = TDLoss("mean")(ours(drawn.observations), (actions, targets(target, flat, GAMMA)))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()

    recorded: dict[str, float] = {}
    theirs.logger.record = lambda key, value, exclude=None: recorded.update({key: value})
    theirs.replay_buffer.sample = lambda *_, **__: drawn
    before = next(theirs.q_net.parameters()).clone()
    theirs.train(1, 256)
    assert loss.item() == pytest.approx(recorded["train/loss"], rel=1e-6)
    assert not torch.equal(before, next(theirs.q_net.parameters()))
    for p, q in zip(ours.parameters(), theirs.q_net.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
