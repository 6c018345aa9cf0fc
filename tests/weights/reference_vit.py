"""A Vision Transformer's forward pass that shares no code with ours, for files of other libraries."""

import torch
from torch.nn import functional as F


def forward(network, pixels):
    """Tokens after the last norm.

    Args:
        network: `patch` (ph, pw, C, D) and `patch_bias`; `cls` (D); `pos` (T, D) or None; `heads`, `eps`; `norm`, a
            pair of scale and shift, or None; perhaps `bias` (heads, T, T), `act` and `registers`; and `blocks`, each
            with pairs `ln1`, `ln2`, and pairs `q`, `k`, `v`, `o`, `fc1`, `fc2` of an (in, out) kernel and a bias,
            perhaps with `scales`, a `gate` beside `fc1`, and a `bias` of its own.
        pixels: (B, C, H, W).
    """
    down, across, channels, width = network["patch"].shape
    batch, _, height, breadth = pixels.shape
    cells = pixels.reshape(batch, channels, height // down, down, breadth // across, across)
    tokens = torch.einsum("bchpwq,pqcd->bhwd", cells, network["patch"]).flatten(1, 2) + network["patch_bias"]
    tokens = torch.cat([network["cls"].expand(batch, 1, width), tokens], 1)
    if network.get("pos") is not None:
        tokens = tokens + network["pos"]
    if "registers" in network:
        registers = network["registers"].expand(batch, -1, width)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
    for block in network["blocks"]:
        scales = block.get("scales", (1.0, 1.0))
        tokens = tokens + scales[0] * attention(norm(tokens, block["ln1"], network["eps"]), block, network)
        tokens = tokens + scales[1] * mlp(norm(tokens, block["ln2"], network["eps"]), block, network)
    return tokens if network["norm"] is None else norm(tokens, network["norm"], network["eps"])


def mlp(tokens, block, network):
    hidden = dense(tokens, block["fc1"])
    hidden = F.silu(hidden) * dense(tokens, block["gate"]) if "gate" in block else network.get("act", F.gelu)(hidden)
    return dense(hidden, block["fc2"])


def attention(tokens, block, network):
    heads = network["heads"]
    query, key, value = (dense(tokens, block[name]).unflatten(-1, (heads, -1)) for name in "qkv")
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    bias = block.get("bias", network.get("bias"))
    scores = scores if bias is None else scores + bias
    return dense(torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).flatten(2), block["o"])


def dense(x, layer):
    kernel, bias = layer
    return x @ kernel + bias


def norm(x, layer, eps):
    scale, shift = layer
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + eps).sqrt() * scale + shift
