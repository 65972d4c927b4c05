"""The task "shakespeare-transformer": the data of the task "shakespeare", and a small causal transformer."""

import torch
from torch import Tensor, nn

from rmsprop.lab.task import Task
from rmsprop.lab.tasks.shakespeare import LENGTH, bits_per_character, characters


class Transformer(nn.Module):
    """A causal transformer: characters (batch × length) → scores (batch × symbols × length).

    Layers normalize before attention and feed-forward network, as in GPT-2. There is no dropout.
    """

    def __init__(self, symbols: int, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.position = nn.Embedding(LENGTH, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, symbols)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the scores of each next character, in the shape that `cross_entropy` takes."""
        length = characters.shape[1]
        x = self.embedding(characters) + self.position(torch.arange(length, device=characters.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=characters.device)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        scores: Tensor = self.output(self.norm(x))
        return scores.transpose(1, 2)


def shakespeare_transformer() -> Task:
    """Return the task: predict the next character of six tragedies, from at most 63 characters before it.

    Source, parts and metric are those of the task shakespeare.
    """
    symbols, train, validation, test = characters("shakespeare-transformer")
    return Task(
        "shakespeare-transformer", lambda: Transformer(symbols), train, validation, test, metric=bits_per_character,
        metric_name="bits per character", higher_is_better=False, batch_size=16, epochs=4,
    )  # fmt: skip
