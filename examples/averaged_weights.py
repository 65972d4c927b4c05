"""torch's averages of weights: SWA and EMA."""

import torch
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = RMSprop(model.parameters(), lr=1e-2)
averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
schedule = SWALR(optimizer, swa_lr=1e-3, anneal_epochs=5)
for inputs in torch.randn(10, 8, 4):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
    averaged.update_parameters(model)
    schedule.step()
result = averaged.module.weight
