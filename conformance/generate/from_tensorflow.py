"""Vectors from TensorFlow 1's RMSProp: the optimizer through a Session, and the fused operations called by themselves.

The optimizer converts Python floats to float32 first, whatever the parameters are (`convert_to_tensor`). So all
numbers, defaults included, are passed as NumPy numbers of the parameters' dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from shared import Array, Family, Step, main

v1 = tf.compat.v1


def start_session(arguments: dict[str, Any], params: Array) -> Step:
    return _session(arguments, params, sparse=False)


def start_session_sparse(arguments: dict[str, Any], params: Array) -> Step:
    return _session(arguments, params, sparse=True)


def _session(arguments: dict[str, Any], params: Array, sparse: bool) -> Step:
    kind = params.dtype.type
    graph = tf.Graph()
    with graph.as_default():
        param = v1.get_variable("param", initializer=params)
        lr, gradient = v1.placeholder(params.dtype, []), v1.placeholder(params.dtype, [None, *params.shape[1:]])
        gradient.set_shape([None, *params.shape[1:]] if sparse else params.shape)
        rows = v1.placeholder(tf.int64, [None])
        numbers = {"decay": 0.9, "momentum": 0.0, "epsilon": 1e-10, **arguments, "learning_rate": lr}
        numbers = {name: kind(value) if isinstance(value, float) else value for name, value in numbers.items()}
        optimizer = v1.train.RMSPropOptimizer(**numbers)
        given = tf.IndexedSlices(gradient, rows, params.shape) if sparse else gradient
        train = optimizer.apply_gradients([(given, param)])
        slots = {"square_avg": "rms", "grad_avg": "mg", "momentum_buffer": "momentum"}
        if not arguments.get("momentum"):
            del slots["momentum_buffer"]  # holds the last step only
        if not arguments.get("centered"):
            del slots["grad_avg"]
        read = {"params": param, **{ours: optimizer.get_slot(param, name) for ours, name in slots.items()}}
        session = v1.Session(graph=graph)
        session.run(v1.global_variables_initializer())

    def step(value: Array, rate: float, touched: list[int] | None = None) -> dict[str, Array]:
        feed = {lr: rate, gradient: value}
        if touched is not None:
            feed[rows] = touched
        session.run(train, feed)
        result: dict[str, Array] = session.run(read)
        return result

    return step


def start_op(arguments: dict[str, Any], params: Array) -> Step:
    return _op(arguments, params, centered=False)


def start_centered_op(arguments: dict[str, Any], params: Array) -> Step:
    return _op(arguments, params, centered=True)


def _op(arguments: dict[str, Any], params: Array, centered: bool) -> Step:
    """Call the operations on variables of our own. Square averages start at 1, as in the optimizer."""
    numbers = {name: tf.constant(value, params.dtype) for name, value in arguments.items() if name != "lr"}
    param, ms, mom = tf.Variable(params), tf.Variable(np.ones_like(params)), tf.Variable(np.zeros_like(params))
    mg = tf.Variable(np.zeros_like(params))
    handles = {"var": param.handle, "ms": ms.handle, "mom": mom.handle}
    if centered:
        handles["mg"] = mg.handle

    def step(gradient: Array, lr: float, rows: list[int] | None = None) -> dict[str, Array]:
        given = {**handles, **numbers, "lr": tf.constant(lr, params.dtype), "grad": tf.constant(gradient)}
        if rows is not None:
            dense, sparse = tf.raw_ops.ResourceSparseApplyRMSProp, tf.raw_ops.ResourceSparseApplyCenteredRMSProp
            (sparse if centered else dense)(**given, indices=tf.constant(rows, tf.int64))
        elif centered:
            tf.raw_ops.ResourceApplyCenteredRMSProp(**given)
        else:
            tf.raw_ops.ResourceApplyRMSProp(**given)
        result = {"params": param.numpy(), "square_avg": ms.numpy()}
        if centered:
            result["grad_avg"] = mg.numpy()
        if arguments["momentum"]:
            result["momentum_buffer"] = mom.numpy()
        return result

    return step


LAZY = "only the rows named at a step change, and their state"
ADDED = f"{LAZY}; the gradients of a row named twice are added first"
SEEN: dict[str, Any] = {"learning_rate": 0.03, "decay": 0.8, "epsilon": 0.02}
OP: dict[str, Any] = {"lr": 0.03, "rho": 0.8, "momentum": 0.0, "epsilon": 0.02}
OPTIMIZER = "tf.compat.v1.train.RMSPropOptimizer"
CENTERED = {"centered": True}
VERSION = tf.__version__
FAMILIES = [
    Family(
        "tf1", OPTIMIZER, VERSION, "tf1", start_session,
        {
            "default": {"learning_rate": 0.01},
            "plain": SEEN,
            "momentum": {**SEEN, "momentum": 0.8},
            "momentum-eps-1": {"learning_rate": 0.045, "momentum": 0.9, "epsilon": 1.0},
            "centered": {**SEEN, "centered": True},
            "centered-momentum": {**SEEN, "centered": True, "momentum": 0.8},
        },
    ),
    Family(
        "tf1-op", "tf.raw_ops.ResourceApplyRMSProp", VERSION, "tf1", start_op,
        {"plain": OP, "momentum": {**OP, "momentum": 0.8}},
    ),
    Family(
        "tf1-centered-op", "tf.raw_ops.ResourceApplyCenteredRMSProp", VERSION, "tf1", start_centered_op,
        {"plain": OP, "momentum": {**OP, "momentum": 0.8}}, implied=CENTERED,
    ),
    Family(
        "tf1-sparse", OPTIMIZER, VERSION, "tf1", start_session_sparse,
        {
            "plain": SEEN,
            "momentum": {**SEEN, "momentum": 0.8},
            "centered-momentum": {**SEEN, "centered": True, "momentum": 0.8},
            "duplicate-rows": {**SEEN, "momentum": 0.8},
        },
        rows=ADDED,
    ),
    Family(
        "tf1-sparse-op", "tf.raw_ops.ResourceSparseApplyRMSProp", VERSION, "tf1", start_op,
        {"momentum": {**OP, "momentum": 0.8}}, rows=LAZY,
    ),
    Family(
        "tf1-sparse-centered-op", "tf.raw_ops.ResourceSparseApplyCenteredRMSProp", VERSION, "tf1", start_centered_op,
        {"momentum": {**OP, "momentum": 0.8}}, implied=CENTERED, rows=LAZY,
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
