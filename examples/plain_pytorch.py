"""AutoMix in a plain PyTorch loop: its own mix block and teacher, schedules, a checkpoint."""

import torch
from drawings import BATCH, EPOCHS, drawings, network, score
from torch.utils.data import DataLoader

import fastmix


def main() -> tuple[list[float], float]:
    """The mean loss of each epoch, and the plain model's top-1 in percent."""
    loader = DataLoader(drawings(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(0), drop_last=True)
    model = network()
    method = fastmix.Method("automix", model, alpha=2.0, total_steps=EPOCHS * len(loader))
    opt = torch.optim.SGD(method.param_groups(lr=0.05, weight_decay=1e-4), momentum=0.9)
    rates = torch.optim.lr_scheduler.OneCycleLR(opt, 0.05, total_steps=EPOCHS * len(loader))
    losses = []
    for _ in range(EPOCHS):
        method.train()
        total = 0.0
        for images, labels in loader:  # uint8 [B,3,H,W]; floats that are normalised do as well
            loss = method(images, labels)
            loss.backward()
            opt.step()
            opt.zero_grad()
            rates.step()
            method.after_step()
            total += loss.item()
        losses.append(total / len(loader))
    checkpoint = {"method": method.state_dict(), "opt": opt.state_dict()}  # goes on where it was
    method.load_state_dict(checkpoint["method"])
    return losses, score(model)


if __name__ == "__main__":
    print(main())
