"""PyTorch Lightning: the method is a module of the LightningModule; its optimizer_step calls after_step."""

import pytorch_lightning as pl
import torch
from drawings import BATCH, EPOCHS, drawings, network, score
from torch.utils.data import DataLoader

import fastmix


class Classifier(pl.LightningModule):
    def __init__(self, name: str, **options):
        super().__init__()
        self.method = fastmix.Method(name, network(), **options)
        self.losses, self.seen = [], []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.method.model(images)

    def training_step(self, batch, index: int) -> torch.Tensor:
        loss = self.method(*batch)
        self.seen.append(loss.detach())
        return loss

    def optimizer_step(self, *args, **kwargs) -> None:  # once a step, also where gradients accumulate
        super().optimizer_step(*args, **kwargs)
        self.method.after_step()

    def on_train_epoch_end(self) -> None:
        self.losses.append(torch.stack(self.seen).mean().item())
        self.seen.clear()

    def configure_optimizers(self):
        return torch.optim.SGD(self.method.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)


def main() -> tuple[list[float], float]:
    """The mean loss of each epoch, and the plain model's top-1 in percent."""
    pl.seed_everything(0)
    loader = DataLoader(drawings(), BATCH, shuffle=True, drop_last=True)
    module = Classifier("manifoldmix", alpha=0.2)
    switched_off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = dict.fromkeys(switched_off, False) | {"accelerator": "cpu", "devices": 1}
    pl.Trainer(max_epochs=EPOCHS, **options).fit(module, loader)
    return module.losses, score(module.method.model)


if __name__ == "__main__":
    print(main())
