"""The place of torchvision's v2.CutMix: mixed in the loader's collate function, with torch's own loss."""

import torch
from drawings import BATCH, EPOCHS, drawings, network, normalised, score
from torch import nn
from torch.utils.data import DataLoader, default_collate

import fastmix


def main() -> tuple[list[float], float]:
    """The mean loss of each epoch, and the plain model's top-1 in percent."""
    model = network()
    method = fastmix.Method("fmix", model, smoothing=0.1, bank=32)

    def collate(samples: list) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = default_collate(samples)
        return method.mix(normalised(images), labels, dense=True)  # as v2.CutMix(num_classes=N)(images, labels)

    order = torch.Generator().manual_seed(0)
    loader = DataLoader(drawings(), BATCH, shuffle=True, generator=order, drop_last=True, collate_fn=collate)
    opt = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    criterion, losses = nn.CrossEntropyLoss(), []
    for _ in range(EPOCHS):
        model.train()
        total = 0.0
        for images, targets in loader:  # mixed floats, and targets [B, classes]
            loss = criterion(model(images), targets)
            loss.backward()
            opt.step()
            opt.zero_grad()
            total += loss.item()
        losses.append(total / len(loader))
    return losses, score(model)


if __name__ == "__main__":
    print(main())
