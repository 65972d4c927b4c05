# %% [markdown]
# # A training that learns nothing, and why
#
# `rmsprop.lab` has the commands of `rmsprop` as functions. A notebook shows what they return.
# [lab.md](../docs/lab.md) has the options. `docs/make/notebook.py` made this file.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import TensorDataset

from rmsprop import Rule
from rmsprop.lab import Task, train

# %% [markdown]
# ## A task of your own
#
# A `Task` is data, a function that returns a new model, and a loss. Without a metric, the score of `cross_entropy` is
# the accuracy. Here 30 measurements of a cell sample tell whether a tumour is benign.

# %%
found = load_breast_cancer()
order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
x, y = torch.tensor(found.data, dtype=torch.float32)[order], torch.tensor(found.target)[order]
x = (x - x[:300].mean(dim=0)) / x[:300].std(dim=0)
training, validation, test = (TensorDataset(x[a:b], y[a:b]) for a, b in ((0, 300), (300, 400), (400, 569)))


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))


task = Task("tumours", model, training, validation, test, batch_size=30, epochs=10)

# %% [markdown]
# ## Train
#
# A cell that ends in a run shows how the run ended. Its directory has the checkpoint, the records and the report.
# This rate is far too low.

# %%
first = train(task, Rule(lr=1e-5))
first

# %% [markdown]
# ## What the optimizer did
#
# Each finding is a sentence with a remedy. A change of options is written as the call that makes it.

# %%
for finding in first.findings:
    print(finding["sentence"])
    print("  remedy:", finding["remedy"])

# %%
run = train(task, Rule(lr=0.001))
print(len(run.findings), "findings")
run

# %% [markdown]
# `run.records` has the losses and scores. Draw what you like.

# %%
_, axes = plt.subplots(figsize=(5, 3))
for name, each in (("lr = 0.00001", first), ("lr = 0.001", run)):
    epochs = [record for record in each.records if record["kind"] == "epoch"]
    axes.plot([r["epoch"] for r in epochs], [r["validation_loss"] for r in epochs], "o-", label=name)
axes.set(xlabel="epoch", ylabel="validation loss")
axes.legend()
plt.show()

# %% [markdown]
# ## The trained model
#
# `load_model` returns the model with the run's weights, in eval mode.

# %%
trained = run.load_model(task)
x, y = test.tensors
with torch.no_grad():
    right = (trained(x).argmax(dim=1) == y).double().mean()
print(f"{right:.3f} of the test data, {run.summary['test_metric']:.3f} in the summary")
