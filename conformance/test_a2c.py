"""A2C of the lab beside Stable-Baselines3's: returns, loss and gradients of one update, on a rollout of its own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from rmsprop.lab import ActorCriticLoss
from rmsprop.lab.rollouts import discounted
from rmsprop.lab.tasks.cartpole import Network


def linear(*parts: Any) -> list[nn.Linear]:
    return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]


def test_an_update_of_a2c_has_the_gradients_of_stable_baselines3() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SB3 warns on import
        from stable_baselines3 import A2C
        from stable_baselines3.common.env_util import make_vec_env

        theirs: Any = A2C("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=3), seed=3, ent_coef=0.01, device="cpu")
        theirs.learn(400)
        _, callback = theirs._setup_learn(4000, None)
        ends = np.zeros((5, 8), dtype=bool)
        while not ends.any():  # until an episode ends within a rollout
            theirs.collect_rollouts(theirs.env, callback, theirs.rollout_buffer, 5)
            ends = np.array([*theirs.rollout_buffer.episode_starts[1:], theirs._last_episode_starts], dtype=bool)
    policy, rollout, ours = theirs.policy, theirs.rollout_buffer, Network(4, 2)
    extractor = policy.mlp_extractor
    their_layers = linear(extractor.policy_net, policy.action_net, extractor.value_net, policy.value_net)
    layers = linear(ours.policy, ours.value)
    for layer, other in zip(layers, their_layers, strict=True):
        layer.load_state_dict(other.state_dict())

    observations = torch.from_numpy(rollout.observations).reshape(-1, 4)
    actions = torch.from_numpy(rollout.actions).long().flatten()
    after = ours(torch.from_numpy(theirs._last_obs))[1].detach().numpy()
    returns = discounted(rollout.rewards.astype(np.float64), ends, after, theirs.gamma)
    assert np.allclose(returns, rollout.returns, rtol=1e-5)
    target = torch.from_numpy(returns).float().flatten()
    scores, values = ours(observations)
    ActorCriticLoss(0.5, 0.01)((scores, values), (actions, target, target - values.detach())).backward()  # type: ignore[no-untyped-call]

    theirs.max_grad_norm = 1e9
    theirs.train()
    for layer, other in zip(layers, their_layers, strict=True):
        for p, q in ((layer.weight, other.weight), (layer.bias, other.bias)):
            assert p.grad is not None
            assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
