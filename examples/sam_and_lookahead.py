"""SAM and Lookahead of pytorch_optimizer: SAM takes a class, Lookahead an optimizer."""

import torch
from pytorch_optimizer import SAM, Lookahead
from torch import nn

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

torch.manual_seed(0)
model = nn.Linear(4, 1)
sam = SAM(model.parameters(), RMSprop, rho=0.05, lr=1e-2)
optimizer = Lookahead(RMSprop(model.parameters(), lr=1e-2), k=2)
for inputs in torch.randn(6, 8, 4):
    model(inputs).square().mean().backward()
    sam.first_step(zero_grad=True)
    model(inputs).square().mean().backward()
    sam.second_step(zero_grad=True)
    model(inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
result = model.weight
