"""Where in an image a network looks: what speaks for a class in the last stage, or attention through all blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.models.saliency import feature_gradient
from fastmix.models.sites import attention_inputs, prefix, sites


def by_attention(model: nn.Module) -> bool:
    """Whether `rollout` is for this model: a transformer that judges its class token, of one grid of patches."""
    return getattr(model, "global_pool", None) == "token" and hasattr(getattr(model, "patch_embed", None), "grid_size")


def grad_cam(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """What speaks for a class, float32 [B,H,W] from 0 to 1 (0 where nothing does); x [B,3,H,W], classes int64 [B].

    relu(sum_c w_c f_c) of the last stage's features f, w_c the mean over the map of d logit / d f_c, enlarged to the
    image (Selvaraju et al., "Grad-CAM", ICCV 2017). With mean pooling and one linear layer behind that is CAM. Raises
    ValueError for a model that does not tell its stages.
    """
    rows = torch.arange(len(x), device=x.device)
    last = [*sites(model)][-1]
    features, slope = feature_gradient(model, last, x, lambda z: z.float()[rows, classes].sum())
    weights = slope.float().mean((2, 3), keepdim=True)
    return _enlarged((weights * features.float()).sum(1).relu(), x)


@torch.no_grad()
def rollout(model: nn.Module, x: Tensor) -> Tensor:
    """How much of each patch comes to the class token, float32 [B,H,W] from 0 to 1; the same for every class.

    The class token's row of the product over the blocks of (A + I) / 2, A the mean attention of the heads: the half is
    what goes past the attention (Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020).
    """
    with attention_inputs(model) as blocks:
        model(x)
    flow = None
    for block in blocks:
        a = (block.rows(0) + torch.eye(block.q.shape[2], device=x.device)) / 2
        flow = a if flow is None else a @ flow
    return _enlarged(flow[:, 0, prefix(model) :].unflatten(1, model.patch_embed.grid_size), x)


def _enlarged(seen: Tensor, x: Tensor) -> Tensor:
    """A map [B,h,w] at the images' size, its largest value 1."""
    large = F.interpolate(seen[:, None], x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return large / large.amax((1, 2), keepdim=True).clamp(min=1e-30)
