"""The task "movies": which films the critics like, from 73,461 sparse features, and a table with sparse gradients."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from rmsprop.lab.data import split
from rmsprop.lab.data_files import check, package_directory, reading
from rmsprop.lab.task import Task

FILMS, FEATURES = 17_453, 73_461
_LIKED = 60  # a film is liked if at least this percentage of its reviews is positive
_PADDING = 0  # index of no feature: it fills the rows of films with fewer features than the largest number
_LISTS = ("Genre", "Director", "Writer", "Cast", "Language", "Country", "Production")  # words divided by commas
_QUERY = """
    select Meter, Year, Genre, Director, Writer, "Cast", Language, Country, Production
    from omdb join tomatoes using (ID) where Meter is not null order by ID
"""


class Network(nn.Module):
    """The sum of a film's rows in a table, and a linear layer: features (batch × length) → logits (batch)."""

    def __init__(self, width: int = 16, sparse: bool = True) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(1 + FEATURES, width, mode="sum", padding_idx=_PADDING, sparse=sparse)
        self.output = nn.Linear(width, 1)
        nn.init.normal_(self.table.weight, std=0.01)  # rows of features that no training film has stay small

    def forward(self, features: Tensor) -> Tensor:
        """Return the logit of each film."""
        logits: Tensor = self.output(self.table(features)).squeeze(1)
        return logits


def movies() -> Task:
    """Return the task: do at least 60 % of the critics like a film, by genre, people, language, country, studio, years.

    Source: films from 1940 to 2014 of Wikidata, CC0, in the package bokeh-sampledata; 17,453 with a Tomatometer, 8 MB.
    Each value is a feature, and a film has about 19 of 73,461: inputs are their indices, padded with 0. The metric is
    accuracy.

    The table has sparse gradients: a step reads and writes the rows of the batch's features. Their averages are exact
    by default, equal to those of dense gradients. For the lazy rule, train task.model() with
    rmsprop.torch.RMSprop(..., sparse="lazy").
    """
    features, labels = _read()
    train, validation, test = split(features, labels)
    return Task(
        "movies", Network, train, validation, test, loss=binary_cross_entropy_with_logits, batch_size=64, epochs=4
    )


def _read() -> tuple[Tensor, Tensor]:
    """Return the indices of each film's features (films × longest), and 1.0 for a liked film, 0.0 for another."""
    directory = package_directory("movies", "bokeh_sampledata", "sparse")
    path: Path = directory / "_data" / "movies.db"
    with reading(path, f"{FILMS:,} films", "pip install --force-reinstall bokeh-sampledata==2026.1"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(_QUERY).fetchall()
        index: dict[str, int] = {}
        films = [torch.tensor([index.setdefault(x, len(index) + 1) for x in _features(row[1:])]) for row in rows]
        check((len(films), len(index)) == (FILMS, FEATURES), f"{len(films):,} films with {len(index):,} features")
        meters = torch.tensor([row[0] for row in rows])
    return pad_sequence(films, batch_first=True, padding_value=_PADDING), (meters >= _LIKED).float()


def _features(film: tuple[Any, ...]) -> Iterator[str]:
    """Yield the features of a film: its half-decade, and each different value of its lists."""
    year, *lists = film
    yield f"Year {year // 5 * 5}"
    for name, values in zip(_LISTS, lists, strict=True):
        yield from dict.fromkeys(f"{name} {value.strip()}" for value in (values or "").split(",") if value.strip())
