"""opacus: clipped gradients with noise, in an optimizer around this one."""

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = RMSprop(model.parameters(), lr=1e-2)
loader = DataLoader(torch.randn(80, 4), batch_size=8)
noise = {"noise_multiplier": 0.5, "max_grad_norm": 1.0, "noise_generator": torch.Generator().manual_seed(0)}
model, optimizer, loader = PrivacyEngine().make_private(
    module=model, optimizer=optimizer, data_loader=loader, poisson_sampling=False, **noise
)
for inputs in loader:
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
result = model._module.weight
