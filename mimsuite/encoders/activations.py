"""Activations by name: those that Hugging Face's configs know, each a module of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.encoders.config import Activation
from mimsuite.errors import InputError

TensorFunction = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """`x * sigmoid(1.702 x)` (Hendrycks & Gimpel 2016), the GELU of the original CvT."""
    return x * torch.sigmoid(1.702 * x)


def clipped_gelu(x: Tensor) -> Tensor:
    """GELU between -10 and 10, for quantised networks."""
    return F.gelu(x).clamp(-10, 10)


def laplace(x: Tensor) -> Tensor:
    """The distribution function of a normal that approximates a squared ReLU (Ma et al. 2023, MEGA)."""
    return 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2))))


def squared_relu(x: Tensor) -> Tensor:
    """`relu(x) ** 2` (So et al. 2021, Primer)."""
    return F.relu(x).square()


def sqrt_softplus(x: Tensor) -> Tensor:
    """`sqrt(softplus(x))`."""
    return F.softplus(x).sqrt()


class XIELU(nn.Module):
    """A parabola for positive values, and an integrated ELU below, with two learned slopes (Huang & Schlag 2024).

    As in transformers the slopes are bfloat16, and they are computed in it whatever the type of the model.
    """

    beta: Tensor
    eps: Tensor

    def __init__(self) -> None:
        super().__init__()
        at_start = torch.tensor([0.8, 0.3], dtype=torch.bfloat16).expm1().log()
        self.alpha_p, self.alpha_n = (nn.Parameter(start[None]) for start in at_start)
        self.register_buffer("beta", torch.tensor(0.5, dtype=torch.bfloat16))
        self.register_buffer("eps", torch.tensor(-1e-6, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the same shape."""
        above, below = (F.softplus(slope.to(torch.bfloat16)) for slope in (self.alpha_p, self.alpha_n))
        below = self.beta.to(torch.bfloat16) + below
        bent = torch.where(x > 0, above * x * x, (torch.expm1(torch.minimum(x, self.eps)) - x) * below)
        return bent + self.beta * x


class Pointwise(nn.Module):
    """A function of single numbers that torch has no module for."""

    def __init__(self, function: TensorFunction) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the same shape."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Its name, in what `print` shows of a model."""
        return str(getattr(self.function, "__name__", self.function))


_gelu_tanh = partial(nn.GELU, approximate="tanh")
#: What makes them. Each layer has its own module, so that it can be hooked or replaced.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_10": partial(Pointwise, clipped_gelu),
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": nn.GELU,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "hardswish": nn.Hardswish,
    "laplace": partial(Pointwise, laplace),
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Identity,
    "mish": nn.Mish,
    "prelu": nn.PReLU,
    "quick_gelu": partial(Pointwise, quick_gelu),
    "relu": nn.ReLU,
    "relu2": partial(Pointwise, squared_relu),
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "sqrtsoftplus": partial(Pointwise, sqrt_softplus),
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
    "xielu": XIELU,
}


def activation_function(name: Activation) -> TensorFunction:
    """Returns the activation of a name, a new module, or the function itself.

    Raises:
        InputError: an unknown name.
    """
    if not isinstance(name, str):
        return name
    if name not in ACTIVATIONS:
        raise InputError(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
