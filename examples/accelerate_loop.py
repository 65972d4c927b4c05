"""Accelerate."""

import torch
from accelerate import Accelerator
from torch import nn

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
model = nn.Linear(4, 1)
model, optimizer = accelerator.prepare(model, RMSprop(model.parameters(), lr=1e-2))
for inputs in torch.randn(10, 8, 4):
    optimizer.zero_grad()
    accelerator.backward(model(inputs).square().mean())
    optimizer.step()
result = model.weight
