"""Lightning; its command line takes `--optimizer rmsprop.torch.RMSprop`."""

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop


class Module(LightningModule):
    """A layer and how it is trained."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, _):
        """Return the loss."""
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        """Return the optimizer."""
        return RMSprop(self.parameters(), lr=1e-2)


torch.manual_seed(0)
model = Module()
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = Trainer(accelerator="cpu", max_steps=10, **quiet)
trainer.fit(model, torch.utils.data.DataLoader(torch.randn(80, 4), batch_size=8))
result = model.layer.weight
optimizer = trainer.optimizers[0]
