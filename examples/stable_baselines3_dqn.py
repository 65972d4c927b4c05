"""Stable-Baselines3, DQN and every algorithm with `policy_kwargs`."""

from stable_baselines3 import DQN

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

choice = {"net_arch": [16], "optimizer_class": RMSprop, "optimizer_kwargs": {"alpha": 0.95, "eps": 0.01}}
model = DQN("MlpPolicy", "CartPole-v1", learning_starts=50, policy_kwargs=choice, seed=0, device="cpu")
model.learn(200)
result = model.q_net.q_net[0].weight
optimizer = model.policy.optimizer
