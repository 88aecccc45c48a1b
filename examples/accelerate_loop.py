"""Hugging Face Accelerate: the method is what is prepared, as a model is."""

import torch
from accelerate import Accelerator
from drawings import BATCH, EPOCHS, drawings, network, score
from torch.utils.data import DataLoader

import fastmix


def main() -> tuple[list[float], float]:
    """The mean loss of each epoch, and the plain model's top-1 in percent."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
    method = fastmix.Method("choice", network(), of={"mixup": {"prob": 0.5}, "cutmix": {"prob": 0.5}})
    opt = torch.optim.SGD(method.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)
    loader = DataLoader(drawings(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(0), drop_last=True)
    wrapped, opt, loader = accelerator.prepare(method, opt, loader)
    losses = []
    for _ in range(EPOCHS):
        wrapped.train()
        total = 0.0
        for images, labels in loader:
            with accelerator.accumulate(wrapped):
                loss = wrapped(images, labels)
                accelerator.backward(loss)
                opt.step()
                opt.zero_grad()
                if accelerator.sync_gradients:
                    method.after_step()
            total += loss.item()
        losses.append(total / len(loader))
    return losses, score(accelerator.unwrap_model(wrapped).model)


if __name__ == "__main__":
    print(main())
