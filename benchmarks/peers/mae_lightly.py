"""MAE pretraining as a user of lightly writes it: the classes and the Trainer of its MAE example for Lightning.

python benchmarks/peers/mae_lightly.py IMAGES MODEL SIZE BATCH WORKERS DECODER_DEPTH COMPILE

IMAGES is an image folder, MODEL a timm name. Different from the example: the model's size, the decoder's depth, and
targets that are normalised in each patch, as in the other programs.
"""

from __future__ import annotations

import sys

import lightning
import timm
import torch
from lightly.data import LightlyDataset
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
from lightly.transforms import MAETransform

WIDTH, HEADS = 512, 16


class MAE(lightning.LightningModule):
    def __init__(self, name: str, size: int, depth: int) -> None:
        super().__init__()
        vit = timm.create_model(name, img_size=size, dynamic_img_size=False)
        self.patch_size = vit.patch_embed.patch_size[0]
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.embed = torch.nn.Linear(vit.embed_dim, WIDTH)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=vit.patch_embed.num_patches, embed_dim=WIDTH, depth=depth, num_heads=HEADS
        )
        self.predict = torch.nn.Linear(WIDTH, 3 * self.patch_size**2)
        self.criterion = torch.nn.MSELoss()

    def training_step(self, batch: tuple[list[torch.Tensor], ...], _: int) -> torch.Tensor:
        images = batch[0][0]
        keep, mask = utils.random_token_mask(
            size=(len(images), self.backbone.sequence_length), mask_ratio=0.75, device=images.device
        )
        encoded = self.embed(self.backbone.encode(images=images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, (len(images), self.decoder.sequence_length))
        tokens = utils.set_at_index(tokens, keep, encoded.type_as(tokens))
        predicted = self.predict(utils.get_at_index(self.decoder(tokens), mask))
        target = utils.get_at_index(utils.patchify(images, self.patch_size), mask - 1)  # without the class token
        mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        loss: torch.Tensor = self.criterion(predicted, (target - mean) / (variance + 1e-6) ** 0.5)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1.5e-4)


def main() -> None:
    images, name = sys.argv[1:3]
    size, batch, workers, depth, compiled = map(int, sys.argv[3:])
    loader = torch.utils.data.DataLoader(
        LightlyDataset(images, transform=MAETransform(input_size=size)),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
    )
    model = MAE(name, size, depth)
    if compiled:
        model.compile()
    trainer = lightning.Trainer(max_epochs=1000, devices=1, accelerator="auto", default_root_dir="lightly")
    trainer.fit(model=model, train_dataloaders=loader)


if __name__ == "__main__":
    main()
