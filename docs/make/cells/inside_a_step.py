# %% [markdown]
# # What the learning rate is in each weight
#
# RMSprop divides each gradient by the root of the average of its square. Every weight has its own rate, η/d: the rate
# that SGD would need for the same step. `docs/make/notebook.py` made this file.

# %%
import matplotlib.pyplot as plt
import torch

from rmsprop.monitor import Monitor
from rmsprop.torch import RMSprop

# %% [markdown]
# ## A loop of your own
#
# Two inputs, of which the second is ten times smaller. Its weight has to grow to 10.

# %%
torch.manual_seed(0)
scales = torch.tensor([1.0, 0.1])
inputs = torch.randn(500, 2) * scales
targets = (inputs / scales).sum(dim=1, keepdim=True) + 0.5 * torch.randn(500, 1)
model = torch.nn.Linear(2, 1, bias=False)
optimizer = RMSprop(model.parameters(), lr=0.05)
monitor = Monitor(optimizer, model, every=20)

losses, rates = [], []
for _step in range(400):
    batch = torch.randint(500, (50,))
    loss = (model(inputs[batch]) - targets[batch]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    rates.append(optimizer.effective_lr(model.weight)[0].tolist())
print(f"loss {losses[0]:.2f}, then {losses[-1]:.2f}")

# %% [markdown]
# ## Two weights, two rates
#
# The gradients of the second weight are small. RMSprop gives that weight the larger rate. SGD has one rate for both.

# %%
_, axes = plt.subplots(figsize=(5, 3))
for name, each in zip(("first weight", "second weight"), zip(*rates, strict=True), strict=True):
    axes.plot(each, label=name)
axes.set(xlabel="step", ylabel="η/d", yscale="log")
axes.legend()
plt.show()

# %%
first, second = rates[-1]
print(f"the second rate is {second / first:.1f} times the first")

# %% [markdown]
# ## The same for a large model
#
# A monitor measures whole tensors, at almost no cost: how large an update is beside the weights, and the median rate.
# From such records it finds what is wrong, and says it in a sentence with a remedy.

# %%
for record in monitor.records[::5]:
    weight = record["tensors"]["weight"]
    update, rate = weight["update_ratio"], weight["effective_lr_median"]
    print(f"step {record['step']}: update/weight {update:.2g}, rate {rate:.2g}")
for finding in monitor.findings():
    print(finding.sentence)
    print("  remedy:", finding.remedy)
