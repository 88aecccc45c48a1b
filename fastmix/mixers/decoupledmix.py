"""DecoupledMix: any method that mixes two images, with a loss that asks for each of the two classes by itself."""

from __future__ import annotations

from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.mixers.base import WEIGHT, Mixer, positive, within
from fastmix.mixers.choice import Choice
from fastmix.targets import Decoupled


class DecoupledMix(Choice):
    """The method in `of` with the loss

        L(z) + eta * (lam^p D(z; a|b) + (1 - lam)^p D(z; b|a)),    D(z; i|j) = -z_i + log sum_{c != j} exp(z_c),

    for each mixture of lam of class a and 1 - lam of class b; L is the criterion's own loss. Where the criterion is
    binary cross-entropy its two targets become min(1, (lam / threshold)^xi) and min(1, ((1 - lam) / threshold)^xi).
    Liu, Li, Wang, Tan, Wu, Li, "Harnessing Hard Mixed Samples with Decoupled Regularization", NeurIPS 2023.

    of         what mixes: a row as in a choice, `{cutmix: {alpha: 1}}`, or several with their `prob`; any method that
               mixes two images, also inside the model
    eta, p     of cross-entropy. p = 1 is OpenMixup's default; 0 counts both terms alike, as the paper has it
    threshold, xi  of binary cross-entropy: 1 and 1 leave its targets as they are

    Cost: that of the method in `of`, and four passes over the logits [B, classes], which are nothing beside the model.
    Departs from OpenMixup: each weight goes with its own class, where that code orders them by the class index of the
    first sample; every sample has its own lam; at lam = 1/2 the term counts too; one mean over the batch. As there, a
    sample whose images are of one class, or that shows one image alone, has the loss L.
    """

    takes_soft = False

    def __init__(
        self,
        of: dict[Mixer, float | None],
        eta: float = 0.1,
        p: float = 1.0,
        threshold: float = 1.0,
        xi: float = 1.0,
        granularity: str = "batch",
    ):
        super().__init__(of, granularity)
        for option, value in (("eta", eta), ("p", p), ("xi", xi)):
            within("DecoupledMix", option, value, WEIGHT)
        positive("DecoupledMix", "threshold", threshold, most=1)
        self.options = eta, p, threshold, xi

    def loss(self, model: nn.Module, batch: Batch, settled, criterion: nn.Module) -> Tensor:
        return super().loss(model, batch, settled, Decoupled(criterion, *self.options))
