"""PEFT: the matrices of LoRA are the only parameters with gradients."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

torch.manual_seed(0)
model = get_peft_model(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1)), LoraConfig(r=2, target_modules=["0"]))
optimizer = RMSprop(model.parameters(), lr=1e-2)
for inputs in torch.randn(10, 8, 4):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
result = dict(model.named_parameters())["base_model.model.0.lora_B.default.weight"]
