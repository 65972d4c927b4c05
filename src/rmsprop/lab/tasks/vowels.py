"""The task "vowels": who speaks, from sequences of 7 to 29 frames of speech, and a recurrent network."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import TensorDataset

from rmsprop.lab.data_files import check, package_directory, reading
from rmsprop.lab.task import Task

_COEFFICIENTS, _SPEAKERS, _LONGEST = 12, 9, 29
_EACH, _HELD_OUT = 30, 6  # training utterances of each speaker; of these, the last ones are for validation


class Network(nn.Module):
    """An LSTM and a linear layer: frames (batch × frames × 12) and lengths → scores (batch × 9)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.memory = nn.LSTM(_COEFFICIENTS, width, batch_first=True)
        self.output = nn.Linear(width, _SPEAKERS)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores after the last frame of each sequence. The padding after it has no effect."""
        states = self.memory(frames)[0]
        last: Tensor = states[torch.arange(len(states), device=states.device), lengths - 1]
        scores: Tensor = self.output(last)
        return scores


def vowels() -> Task:
    """Return the task: which of nine speakers says the Japanese vowels /ae/, from 12 LPC cepstrum coefficients a frame.

    Source: Japanese Vowels of the UCI repository (Kudo, Toyama and Shimbo 1999), in the package sktime, BSD-3; 640
    utterances, 1 MB. The 370 test utterances are those of the data set. Of the 270 others, 30 of each speaker, six
    of each speaker are for validation. Inputs are the frames, padded with zeros to 29, and their number. The metric is
    accuracy.
    """
    frames, lengths, labels = _read("TRAIN", _EACH * _SPEAKERS)
    held_out = torch.arange(len(labels)) % _EACH >= _EACH - _HELD_OUT  # the file is in the order of the speakers
    train, validation = (TensorDataset(frames[part], lengths[part], labels[part]) for part in (~held_out, held_out))
    test = TensorDataset(*_read("TEST", 370))
    return Task("vowels", Network, train, validation, test, batch_size=32, epochs=40)


def _read(part: str, utterances: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return frames (utterances × 29 × 12), numbers of frames, and speakers from 0 to 8.

    Each line of the file holds an utterance: 12 series of numbers and the speaker, divided by colons.
    """
    directory = package_directory("vowels", "sktime", "speech")
    path: Path = directory / "datasets" / "data" / "JapaneseVowels" / f"JapaneseVowels_{part}.ts"
    with reading(path, f"{utterances} utterances of {_SPEAKERS} speakers", "install sktime again"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] not in "#@"]
        check(len(lines) == utterances, f"{len(lines)} utterances")
        series, labels = [], []
        for line in lines:
            *channels, speaker = line.split(":")
            series.append(torch.tensor([[float(x) for x in channel.split(",")] for channel in channels]).T)
            labels.append(int(speaker) - 1)
        check(all(x.shape[1] == _COEFFICIENTS and 0 < len(x) <= _LONGEST for x in series), "frames of another form")
        check(all(bool(x.isfinite().all()) for x in series), "numbers that are not finite")
        check(set(labels) == set(range(_SPEAKERS)), "other speakers than 1 to 9")
    padded = pad_sequence([*series, torch.zeros(_LONGEST, _COEFFICIENTS)], batch_first=True)[:-1]
    return padded, torch.tensor([len(x) for x in series]), torch.tensor(labels)
