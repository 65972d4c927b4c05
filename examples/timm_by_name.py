"""timm: the names `rmsprop-tf1`, `rmsprop-keras` and so on, one for each profile."""

import torch
from timm.optim import create_optimizer_v2
from torch import nn

import rmsprop.timm

rmsprop.timm.register()

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
name = "rmsprop-tf1"  # instead of: name = "rmsproptf"
optimizer = create_optimizer_v2(model, name, lr=1e-2, weight_decay=0.1)
for inputs in torch.randn(10, 8, 4):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
result = model[1].weight
