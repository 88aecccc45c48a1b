"""Hugging Face's Trainer: the method gives the loss, a callback calls after_step."""

import tempfile

import torch
from drawings import BATCH, EPOCHS, drawings, network, score
from transformers import Trainer, TrainerCallback, TrainingArguments

import fastmix


class AfterStep(TrainerCallback):
    def on_optimizer_step(self, args, state, control, model=None, **rest) -> None:
        model.after_step()


class MixTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = model(inputs["images"], inputs["labels"])
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            groups = self.model.param_groups(self.args.learning_rate, self.args.weight_decay)
            self.optimizer = torch.optim.SGD(groups, momentum=0.9)
        return self.optimizer


def collate(samples: list) -> dict[str, torch.Tensor]:
    images, labels = zip(*samples, strict=True)
    return {"images": torch.stack(images), "labels": torch.stack(labels)}


def main() -> tuple[list[float], float]:
    """The mean loss of each epoch, and the plain model's top-1 in percent."""
    method = fastmix.Method("resizemix", network())
    with tempfile.TemporaryDirectory() as folder:
        options = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_strategy": "epoch"}
        options |= {"per_device_train_batch_size": BATCH, "num_train_epochs": EPOCHS, "use_cpu": True}
        args = TrainingArguments(folder, learning_rate=0.02, remove_unused_columns=False, **options)
        trainer = MixTrainer(method, args, collate, drawings(), callbacks=[AfterStep()])
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, score(method.model)


if __name__ == "__main__":
    print(main())
