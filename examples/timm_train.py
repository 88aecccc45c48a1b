"""timm's way: its loader, gradient scaler, moving average and optimiser, with PuzzleMix in place of its Mixup."""

import timm.data
import timm.optim
import torch
from drawings import BATCH, CLASSES, EPOCHS, SIZE, drawings, network, score
from PIL import Image
from timm.utils import ModelEmaV3, NativeScaler

import fastmix


class Pictures(torch.utils.data.Dataset):
    """The drawings as PIL images, as timm's folders give them."""

    def __init__(self):
        self.images, self.labels = drawings().tensors
        self.transform = None  # create_loader sets it

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int):
        picture = Image.fromarray(self.images[k].permute(1, 2, 0).numpy())
        return self.transform(picture), int(self.labels[k])


def main() -> tuple[list[float], float]:
    """The mean loss of each epoch, and the averaged model's top-1 in percent."""
    shape = (3, SIZE, SIZE)
    loader = timm.data.create_loader(
        Pictures(), shape, BATCH, is_training=True, use_prefetcher=False, num_workers=0, scale=(0.7, 1.0)
    )  # normalised floats [B,3,H,W]
    model = network()
    method = fastmix.Method("puzzlemix", model, smoothing=0.1, classes=CLASSES)  # not --mixup, --cutmix, --smoothing
    opt = timm.optim.create_optimizer_v2(method.param_groups(lr=0.02, weight_decay=1e-4), opt="sgd", lr=0.02)
    scaler, average = NativeScaler(device="cpu"), ModelEmaV3(model, decay=0.97)
    losses = []
    for _ in range(EPOCHS):
        method.train()
        total = 0.0
        for images, labels in loader:
            loss = method(images, labels)
            opt.zero_grad()
            scaler(loss, opt, clip_grad=5.0, parameters=model.parameters())
            method.after_step()
            average.update(model)
            total += loss.item()
        losses.append(total / len(loader))
    return losses, score(average.module)


if __name__ == "__main__":
    print(main())
