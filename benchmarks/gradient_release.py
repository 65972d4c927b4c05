"""Measure peak memory with and without released gradients: python benchmarks/gradient_release.py [--json].

A byte-level language model with the layers of GPT-2 small (12 layers, 768 wide) trains for 4 steps on random text. Each
row runs in its own process. The peak is the largest resident memory, minus the peak before the model is built.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import torch
from peak_memory import peak_mb
from torch import Tensor, nn

from rmsprop.environment import environment
from rmsprop.torch import RMSprop, release_gradients

SYMBOLS, WIDTH, LAYERS, LENGTH, BATCH, STEPS = 256, 768, 12, 64, 1, 4
WAYS: dict[str, dict[str, Any]] = {
    "torch.optim.RMSprop": {},
    "rmsprop": {},
    "rmsprop, 8-bit state": {"state_dtype": "uint8"},
    "rmsprop, released": {},
    "rmsprop, 8-bit state, released": {"state_dtype": "uint8"},
}


class Language(nn.Module):
    """A Transformer that predicts the next byte; its output is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, 12, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, text: Tensor) -> Tensor:
        """Return the logits of the next byte at every position."""
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        hidden: Tensor = self.layers(self.embed(text), mask, is_causal=True)
        return hidden @ self.embed.weight.t()


def measure(way: str) -> dict[str, float]:
    """Train in this process; return the peak in MB, and the last loss."""
    before = peak_mb()
    torch.manual_seed(0)
    model = Language()
    cls: Any = torch.optim.RMSprop if way.startswith("torch") else RMSprop
    optimizer = cls(model.parameters(), lr=1e-4, **WAYS[way])
    data = torch.randint(SYMBOLS, (STEPS, BATCH, LENGTH + 1))
    loss = torch.zeros(())
    with release_gradients(optimizer) if way.endswith("released") else nullcontext():
        for text in data:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
            loss.backward()
            optimizer.step()
    return {"peak_mb": peak_mb() - before, "loss": loss.item()}


def main() -> None:
    """Measure every way in its own process and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        json.dump(measure(given.way), sys.stdout)
        return
    rows = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way]
        rows[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    with torch.device("meta"):
        size = sum(p.numel() for p in Language().parameters())
    found = {"environment": environment(), "parameters": size, "model_mb": size * 4 / 1e6, "rows": rows}
    if given.json:
        json.dump(found, sys.stdout, indent=1)
        print()
        return
    print(f"{size / 1e6:.1f} million parameters, {found['model_mb']:.0f} MB")
    for way, row in rows.items():
        print(f"{way:<32} {row['peak_mb']:6.0f} MB at most, loss {row['loss']:.6f}")


if __name__ == "__main__":
    main()
