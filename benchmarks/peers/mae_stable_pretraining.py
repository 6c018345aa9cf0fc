"""MAE pretraining as a user of stable-pretraining writes it: its benchmark for Imagenette, without probes.

python benchmarks/peers/mae_stable_pretraining.py IMAGES MODEL SIZE BATCH WORKERS DECODER_DEPTH COMPILE

IMAGES is an image folder, MODEL a timm name. Different from the benchmark: the model's size, the decoder's depth,
float32, and no online probes, which need a second pass through the encoder.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import lightning
import stable_pretraining as spt
import timm
import torch
import torchvision
from stable_pretraining.data import transforms
from stable_pretraining.methods.mae import MAE


def forward(self: MAE, batch: dict[str, Any], stage: str) -> dict[str, Any]:
    output = MAE.forward(self, batch["image"])
    self.log(f"{stage}/loss", output.loss, on_step=True, on_epoch=True, sync_dist=True)
    return {"loss": output.loss}


def main() -> None:
    images, name = sys.argv[1:3]
    size, batch, workers, depth, compiled = map(int, sys.argv[3:])
    steps = [
        transforms.RGB(),
        transforms.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ToImage(**spt.data.static.ImageNet),
    ]
    dataset = spt.data.FromTorchDataset(
        torchvision.datasets.ImageFolder(images), names=["image", "label"], transform=transforms.Compose(*steps)
    )
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=batch,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        shuffle=True,
    )
    module = MAE(
        model_or_model_name=timm.create_model(name, img_size=size),
        decoder_embed_dim=512,
        decoder_depth=depth,
        decoder_num_heads=16,
        mask_ratio=0.75,
        norm_pix_loss=True,
    )
    module.forward = types.MethodType(forward, module)
    module.optim = {
        "optimizer": {"type": "AdamW", "lr": 1.5e-4, "weight_decay": 0.05, "betas": (0.9, 0.95)},
        "scheduler": {
            "type": "LinearWarmupCosineAnnealing",
            "peak_step": 0.05,
            "start_factor": 0.01,
            "end_lr": 1.5e-5,
            "total_steps": len(loader) * 1000,
        },
        "interval": "step",
    }
    if compiled:
        module.encoder.compile()
        module.decoder.compile()
    trainer = lightning.Trainer(
        max_epochs=1000, num_sanity_val_steps=0, precision="32-true", devices=1, default_root_dir="stable_pretraining"
    )
    spt.Manager(trainer=trainer, module=module, data=spt.data.DataModule(train=loader))()


if __name__ == "__main__":
    main()
