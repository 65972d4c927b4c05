"""Keras: a name that any model, configuration or file can hold."""

import keras
import numpy as np

import rmsprop.keras  # noqa: F401  (registers the name)

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("rmsprop>RMSprop", loss="mse")  # instead of: model.compile("RMSprop", loss="mse")
inputs = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
model.fit(inputs, inputs[:, :1], batch_size=8, epochs=1, shuffle=False, verbose=0)
result = model.get_weights()[0]
optimizer = model.optimizer
