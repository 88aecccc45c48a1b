"""How many graphs a compiled model has."""

from __future__ import annotations

import torch
import torch._dynamo


class Counted:
    """A backend of torch.compile that runs what it is given and counts it."""

    def __init__(self):
        self.graphs = 0
        torch._dynamo.reset()

    def __call__(self, graph, given):
        self.graphs += 1
        return graph.forward
