"""Lightning's command line, which builds the optimizer from the path of a class."""

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LightningCLI
from torch import nn

CHOICE = "rmsprop.torch.RMSprop"  # instead of: CHOICE = "torch.optim.RMSprop"


class Module(LightningModule):
    """A layer and how it is trained."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def train_dataloader(self):
        """Return the batches."""
        return torch.utils.data.DataLoader(torch.randn(80, 4), batch_size=8)

    def training_step(self, batch, _):
        """Return the loss."""
        return self.layer(batch).square().mean()


quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
words = ["fit", "--trainer.accelerator=cpu", "--trainer.max_steps=10", *(f"--trainer.{each}=false" for each in quiet)]
words += [f"--optimizer={CHOICE}", "--optimizer.lr=0.01", "--optimizer.alpha=0.9"]
cli = LightningCLI(Module, args=words, save_config_callback=None)
result = cli.model.layer.weight
optimizer = cli.trainer.optimizers[0]
