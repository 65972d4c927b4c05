"""Keras: an optimizer for each part of a model."""

import keras
import numpy as np
from keras.optimizers import SGD, MultiOptimizer, OptimizerMap

from rmsprop.keras import RMSprop  # instead of: from keras.optimizers import RMSprop

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="body"), keras.layers.Dense(1, name="head")])
optimizer = RMSprop(1e-2)
model.compile(MultiOptimizer(OptimizerMap(SGD(1e-2), {".*body.*": optimizer})), loss="mse")
inputs = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
model.fit(inputs, inputs[:, :1], batch_size=8, epochs=1, shuffle=False, verbose=0)
result = model.get_weights()[0]
