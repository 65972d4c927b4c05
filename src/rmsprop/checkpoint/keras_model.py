"""The trainable variables of a Keras model, read from its configuration alone. No layer is built or executed.

Each layer's output has one of these orders. The order decides how a Flatten joins the axes:

    SAME      the same in Keras and PyTorch
    SPATIAL   channels last in Keras, channels first in PyTorch
    IMAGE     a model input of four or more axes; in PyTorch, channels may be first or last
    sizes     a vector that a Flatten joined from (height, width, channels)
    UNKNOWN   the configuration does not tell
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rmsprop.checkpoint.layout_change import LayoutChange, Sizes
from rmsprop.checkpoint.state import KerasVariable

SAME, SPATIAL, IMAGE, UNKNOWN = "same", "spatial", "image", "unknown"
_Order = str | Sizes

_CONV = {n: LayoutChange((n + 1, n, *range(n))) for n in (1, 2, 3)}
_DEPTHWISE = {n: LayoutChange((n, n + 1, *range(n))) for n in (1, 2)}
_DENSE = LayoutChange((1, 0))
_ONE_BIAS = "PyTorch has two biases in its place, which move twice as far: make both layers without bias"
_TWO_ROWS = "PyTorch has its rows as two parameters: make both layers without bias"
_PASSING = {
    "InputLayer", "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "Dropout", "GaussianNoise", "GaussianDropout",
    "AlphaDropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Rescaling", "Identity",
    "ActivityRegularization", "Masking", "BatchNormalization", "LayerNormalization", "GroupNormalization",
}  # fmt: skip
_MERGING = {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"}
_WITHIN = ("MaxPooling", "AveragePooling", "ZeroPadding", "Cropping", "UpSampling")
_GLOBAL = ("GlobalMaxPooling", "GlobalAveragePooling")


def variables(model: Mapping[str, Any]) -> list[KerasVariable] | None:
    """Return a Sequential or Functional model's trainable variables in order; None for other models or layers."""
    if model.get("class_name") not in ("Sequential", "Functional"):
        return None
    by_layer: dict[str, list[KerasVariable]] = {}
    orders: dict[str, _Order] = {}
    sources: dict[str, list[str]] = {}  # the input layers of each layer
    previous: list[str] = []
    for layer in model["config"]["layers"]:
        name, cls = layer["config"]["name"], layer["class_name"]
        sources[name] = list(_inbound(layer["inbound_nodes"])) if layer.get("inbound_nodes") else previous
        inputs = [orders.get(each, UNKNOWN) for each in sources[name]]
        if cls not in _MERGING and len(set(inputs)) > 1:  # a layer called on inputs of different orders
            inputs = [UNKNOWN]
        own = _layer_variables(layer, inputs[0] if inputs else UNKNOWN)
        if own is None or layer.get("registered_name"):  # unknown, or a custom class with a known name
            return None
        by_layer[name] = own if layer["config"].get("trainable", True) else []
        orders[name] = _order(layer, inputs)
        if cls == "Reshape" and orders[name] == UNKNOWN:
            sizes = tuple(layer["config"]["target_shape"])
            if inputs[:1] == [SAME] and len(sizes) > 1:
                by_layer |= _reshaped(sizes, name, sources, by_layer)
                orders[name] = SPATIAL if len(sizes) > 2 else UNKNOWN
        previous = [name]
    return [variable for each in by_layer.values() for variable in each]


def _inbound(nodes: Any) -> Iterator[str]:
    """Yield the names of a layer's input layers."""
    if isinstance(nodes, dict):
        if nodes.get("class_name") == "__keras_tensor__":
            yield nodes["config"]["keras_history"][0]
        else:
            for each in nodes.values():
                yield from _inbound(each)
    elif isinstance(nodes, list):
        for each in nodes:
            yield from _inbound(each)


def _layer_variables(layer: Mapping[str, Any], order: _Order) -> list[KerasVariable] | None:
    """Return the variables of a layer with inputs of this order; None for an unknown layer."""
    cls, config = layer["class_name"], layer["config"]
    name, n = config["name"], int(cls[-2]) if cls[-2:] in ("1D", "2D", "3D") else 0

    def one(variable: str, ndim: int, change: LayoutChange | None = None, **more: Any) -> KerasVariable:
        return KerasVariable(name, cls, variable, ndim, change, **more)

    sizes = order if isinstance(order, tuple) else None
    inputs: dict[str, Any] = {"ask": "flatten"} if order == UNKNOWN else {}
    variables: list[KerasVariable] = []
    bias = [one("bias", 1)] if config.get("use_bias", True) else []
    if cls == "Dense":
        return [one("kernel", 2, replace(_DENSE, inputs=sizes), **inputs), *bias]
    if cls in ("Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"):
        n = n or int(cls[4])
        return [one("kernel", n + 2, _CONV[n], note=_padding(config, n)), *bias]
    if cls in ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"):
        several = config.get("depth_multiplier", 1) != 1
        problem = "PyTorch joins its channels and depth_multiplier into one axis" if several else None
        variables.append(one("kernel", n + 2, _DEPTHWISE[n], note=_padding(config, n), problem=problem, final=several))
        if cls.startswith("Separable"):
            variables.append(one("pointwise_kernel", n + 2, _CONV[n]))
        return variables + bias
    if cls == "Embedding":
        return [one("embeddings", 2)]
    if cls in ("LSTM", "SimpleRNN", "GRU"):
        change = replace(_DENSE, inputs=sizes, blocks=(1, 0, 2) if cls == "GRU" else None)
        other: dict[str, Any] = {}
        if cls == "GRU" and not config.get("reset_after", True):
            other = {"problem": "PyTorch's GRU resets after its product: use reset_after=True", "final": True}
        recurrent = one("recurrent_kernel", 2, replace(change, inputs=None), **other)
        if cls == "GRU":
            bias = [one("bias", 2, problem=_TWO_ROWS, final=True)] if bias else []
        else:
            bias = [replace(each, problem=_ONE_BIAS) for each in bias]
        return [one("kernel", 2, change, **inputs, **other), recurrent, *bias]
    if cls in ("BatchNormalization", "LayerNormalization", "GroupNormalization"):
        used = [part for part, flag in (("gamma", "scale"), ("beta", "center")) if config.get(flag, True)]
        axes = config.get("axis")
        if isinstance(axes, list) and len(axes) > 1:
            return None
        note = f"set eps={config['epsilon']} in PyTorch's {cls}" if "epsilon" in config else None
        if cls == "BatchNormalization" and note:
            note += f" and momentum={1 - config['momentum']:g}"
        joined = None if sizes is None else LayoutChange(inputs=None, outputs=sizes)
        return [one(part, 1, joined, note=note, **({"ask": "reshape"} if inputs else {})) for part in used]
    passing = cls in _PASSING or cls in _MERGING or cls in ("Flatten", "Reshape", "Permute", "RepeatVector")
    return [] if passing or cls.startswith((*_WITHIN, *_GLOBAL)) else None


def _padding(config: Mapping[str, Any], n: int) -> str | None:
    """Return a note if padding="same" pads unevenly, which no PyTorch layer does."""
    size, strides = config.get("kernel_size"), config.get("strides", 1)
    sizes = size if isinstance(size, list) else [size] * n
    steps = strides if isinstance(strides, list) else [strides] * n
    uneven = any(s % 2 == 0 for s in sizes if isinstance(s, int)) or any(s != 1 for s in steps)
    if config.get("padding") != "same" or not uneven:
        return None
    return f'padding="same" of {config["name"]} pads more behind than before: pad the same by hand in PyTorch'


def _order(layer: Mapping[str, Any], inputs: list[_Order]) -> _Order:
    cls, config = layer["class_name"], layer["config"]
    order = inputs[0] if inputs else UNKNOWN
    shape = (layer.get("build_config") or {}).get("input_shape") or [None]
    first = config.get("data_format") == "channels_first"
    if cls == "InputLayer":
        rank = len(config.get("batch_shape") or config.get("batch_input_shape") or ())
        return SAME if 0 < rank < 4 else IMAGE
    if cls in _MERGING:
        kinds = {SPATIAL if each == IMAGE and SPATIAL in inputs else each for each in inputs}
        alike = len(kinds) == 1 and not (cls == "Concatenate" and isinstance(order, tuple))
        return kinds.pop() if alike else UNKNOWN
    if cls in _PASSING:
        return order
    if "Conv" in cls:
        return SAME if first else SPATIAL
    if cls.startswith(_GLOBAL):
        return order if config.get("keepdims") else SAME
    if cls.startswith(_WITHIN):
        return order if first or order in (SPATIAL, IMAGE) else UNKNOWN
    if cls in ("Embedding", "LSTM", "GRU", "SimpleRNN"):
        return SAME
    if cls == "Dense":
        return SAME if order == SAME or isinstance(order, tuple) or len(shape) == 2 else UNKNOWN
    if cls == "Flatten" or (cls == "Reshape" and len(config["target_shape"]) == 1):
        return _flattened(order, shape, first)
    return UNKNOWN


def _flattened(order: _Order, shape: list[Any], first: bool) -> _Order:
    """Return the order of a flattened tensor. The first axis of `shape` is the batch."""
    sizes = shape[1:]
    if len(sizes) < 2:
        return order if isinstance(order, tuple) or order == UNKNOWN else SAME
    if any(type(size) is not int for size in sizes):
        return SAME if order == SAME and not first else UNKNOWN
    if first:  # Keras moves the channels last before it joins the axes
        return (*sizes[1:], sizes[0]) if order == SAME else UNKNOWN
    if order == IMAGE and sizes[-1] != 1:
        return UNKNOWN
    return tuple(sizes) if order == SPATIAL else SAME if order in (SAME, IMAGE) else UNKNOWN


def _reshaped(
    sizes: Sizes, name: str, sources: Mapping[str, list[str]], by_layer: Mapping[str, list[KerasVariable]]
) -> dict[str, list[KerasVariable]]:
    """Return changed variables for the Reshape `name`: those of its input layers, back to the dense layer."""
    whole = len(sizes) > 2 and all(type(size) is int and size > 0 for size in sizes)
    changed: dict[str, list[KerasVariable]] = {}
    visited = {name}
    waiting = list(sources[name])
    while waiting:
        layer = waiting.pop()
        if layer in visited:
            continue
        visited.add(layer)
        own = by_layer.get(layer, [])
        if whole:
            changed[layer] = [
                replace(each, change=replace(each.change or LayoutChange(), outputs=sizes), ask=None) for each in own
            ]
        else:
            changed[layer] = [replace(each, ask="reshape") for each in own]
        if not (own and own[0].name == "kernel"):
            waiting += sources.get(layer, [])
    return changed
