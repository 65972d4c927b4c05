"""Stable-Baselines3, A2C: no line changes, it looks torch.optim.RMSprop up by name.

rmsprop run examples/stable_baselines3_a2c.py
"""

from stable_baselines3 import A2C

model = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
model.learn(200)
result = model.policy.value_net.weight
optimizer = model.policy.optimizer
