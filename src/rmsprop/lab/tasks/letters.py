"""The task "letters": capital letters by 16 features of their pixels, a table of 20,000 rows."""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.lab.data_files import check, debian_directory, package_directory, reading
from rmsprop.lab.task import Task

_SOURCE = "r-cran-mlbench"
_TRAIN, _VALIDATION, _TEST = 14_000, 2_000, 4_000


def model() -> nn.Module:
    """Return a network of two hidden layers of 128 units (about 22,000 parameters)."""
    return nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 26))


def letters() -> Task:
    """Return the task: one of 26 capital letters in 20 distorted fonts, from 16 counts and moments of its pixels.

    Source: Letter Recognition of the UCI repository (Frey and Slate 1991), in Debian's r-cran-mlbench, GPL-2; 1 MB.
    The last 4,000 of the 20,000 rows are for test, as in Frey and Slate's article; the 2,000 rows before them are for
    validation. The metric is accuracy. Without R: apt-get download r-cran-mlbench, then dpkg-deb -x into the virtual
    environment.
    """
    features, labels = _read()
    features = (features - features[:_TRAIN].mean(dim=0)) / features[:_TRAIN].std(dim=0)
    parts = _TRAIN, _TRAIN + _VALIDATION
    train, validation, test = map(TensorDataset, features.tensor_split(parts), labels.tensor_split(parts))
    return Task("letters", model, train, validation, test, batch_size=64, epochs=20)


def _read() -> tuple[Tensor, Tensor]:
    """Return the features, from 0 to 15, and the letters as classes from 0 to 25."""
    package_directory("letters", "rdata", "tabular")
    import rdata

    directory = debian_directory("letters", _SOURCE, "usr/lib/R/site-library/mlbench")
    path = directory / "data" / "LetterRecognition.rda"
    rows = _TRAIN + _VALIDATION + _TEST
    with reading(path, f"16 features of {rows:,} letters", f"install {_SOURCE} again"):
        table = rdata.read_rda(path, default_encoding="ascii")["LetterRecognition"]
        features = torch.tensor(table.drop(columns="lettr").to_numpy(dtype="float32"))
        labels = torch.tensor([ord(letter) - ord("A") for letter in table["lettr"]])
        check(features.shape == (rows, 16), f"a table of {tuple(features.shape)}")
        check(bool(((features >= 0) & (features <= 15)).all()), "features outside of 0 to 15")
        check(set(labels.tolist()) == set(range(26)), "other labels than A to Z")
    return features, labels
