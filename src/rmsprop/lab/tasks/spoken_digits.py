"""The task "spoken-digits": digits spoken by synthetic voices, and a recurrent network."""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import TensorDataset

from rmsprop.lab.speech import BANDS, Utterance, speak
from rmsprop.lab.task import Task

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = {  # variants of espeak-ng's voices; none is in two parts
    "train": (
        "m1", "m2", "m3", "m4", "m5", "f1", "f2", "f3", "adam", "Alex", "Andrea", "antonio", "belinda", "boris",
        "david", "Denis", "Hugo", "iven", "klatt", "Lee", "Mario", "max", "Mike", "steph",
    ),
    "validation": ("m6", "f4", "Annie", "edward", "linda", "Marco", "pablo", "zac"),
    "test": ("m7", "m8", "f5", "Alicia", "Andy", "croak", "Jacky", "john", "quincy", "robert"),
}  # fmt: skip
ACCENTS = ("en-us", "en")  # en is British; espeak-ng 1.51 ignores the variants of en-gb
MANNERS = ((130, 35), (180, 65))  # words a minute, and pitch from 0 to 99


class Network(nn.Module):
    """A GRU and a linear layer: frames (batch × frames × bands) and lengths → scores (batch × 10)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.memory = nn.GRU(BANDS, width, batch_first=True)
        self.output = nn.Linear(width, len(WORDS))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores after the last frame of each sequence. The padding after it has no effect."""
        states = self.memory(frames)[0]
        last: Tensor = states[torch.arange(len(states), device=states.device), lengths - 1]
        scores: Tensor = self.output(last)
        return scores


def utterances(part: str) -> list[Utterance]:
    """Return the utterances of a part: each digit by each voice in each accent and manner."""
    return [
        Utterance(word, accent, voice, speed, pitch)
        for voice in VOICES[part]
        for accent in ACCENTS
        for speed, pitch in MANNERS
        for word in WORDS
    ]


def spoken_digits() -> Task:
    """Return the task: which of ten digits a synthetic voice says, from log-mel energies.

    Source: espeak-ng, a synthesizer in Debian's package of the same name, GPL-3, speaks them on this machine. Training,
    validation and test have different voices, in American and British English, slow and low or fast and high. Inputs
    are the frames, standardized by the training data and padded with zeros, and their number. The metric is accuracy.
    """
    parts = {part: utterances(part) for part in VOICES}
    spoken = [torch.from_numpy(each) for each in speak("spoken-digits", [*chain(*parts.values())])]
    heard = torch.cat(spoken[: len(parts["train"])])
    mean, deviation = heard.mean(dim=0), heard.std(dim=0)
    frames = pad_sequence([(each - mean) / deviation for each in spoken], batch_first=True)
    lengths = torch.tensor([len(each) for each in spoken])
    digits = torch.tensor([WORDS.index(each.word) for part in parts.values() for each in part])
    sizes = [len(part) for part in parts.values()]
    train, validation, test = map(TensorDataset, *(torch.split(each, sizes) for each in (frames, lengths, digits)))
    return Task("spoken-digits", Network, train, validation, test, batch_size=32, epochs=10)
