"""RHO-LOSS in Lightning, on scanned letters: python examples/lightning_module.py."""

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import rho_train
from rho_train.integrations.lightning import SelectionCallback
from rho_train.tasks import letters


class Letters(lightning.LightningModule):
    """A module that knows nothing of selection."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 26))

    def forward(self, x):
        """Return logits."""
        return self.net(x)

    def training_step(self, batch, batch_idx):
        """Return the mean loss."""
        return F.cross_entropy(self(batch.x), batch.y)

    def validation_step(self, batch, batch_idx):
        """Log the accuracy."""
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


task = letters(noise=0.1)
data = rho_train.IndexedDataset(task.train)
store = rho_train.crossfit_il(lambda seed: nn.Linear(16, 26), data, 2, rho_train.ILRecipe(epochs=3))
selection = SelectionCallback(rho_train.Selector(il=store, ratio=0.1))

lightning.seed_everything(0)
trainer = lightning.Trainer(
    accelerator="cpu",
    max_epochs=3,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    callbacks=[selection],
)
trainer.fit(
    Letters(),
    DataLoader(data, batch_size=320, shuffle=True, drop_last=True),
    DataLoader(task.test, batch_size=1000),
)
accuracy = trainer.callback_metrics["accuracy"]
print(f"{selection.selector.steps} steps of 32 examples, test accuracy {accuracy:.1%}")
