"""skorch: arguments of the optimizer have the prefix `optimizer__`."""

import torch
from sklearn.datasets import make_classification
from skorch import NeuralNetClassifier
from torch import nn

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

torch.manual_seed(0)
inputs, labels = make_classification(100, 4, random_state=0)
net = NeuralNetClassifier(
    nn.Linear(4, 2),
    criterion=nn.CrossEntropyLoss,
    optimizer=RMSprop,
    optimizer__alpha=0.9,
    max_epochs=2,
    verbose=0,
)
net.fit(inputs.astype("float32"), labels)
result = net.module_.weight
optimizer = net.optimizer_
