"""schedule_free's wrapper, which gives parameters a state before the first step: torch's own class raises KeyError."""

import torch
from schedulefree import ScheduleFreeWrapper
from torch import nn

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

torch.manual_seed(0)
model = nn.Linear(4, 1)
base = RMSprop(model.parameters(), lr=1e-2)
optimizer = ScheduleFreeWrapper(base, momentum=0.9)
optimizer.train()
for inputs in torch.randn(10, 8, 4):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
optimizer.eval()
result = model.weight
