"""Weights for tests in which nothing may be 0 or 1 by chance of its initialisation."""

import torch
from torch import nn


@torch.no_grad()
def randomise(model):
    """Draws parameters and running statistics anew, so that nothing is 0 or 1 by its initialisation."""
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        nn.init.normal_(p, std=0.2)
        if "norm" in name and name.endswith("weight"):
            p.add_(1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.2)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    return model
