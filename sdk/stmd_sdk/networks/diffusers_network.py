"""A network of diffusers' own, with the signature of ours."""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.models.embeddings import PatchEmbed
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.unets.unet_2d import UNet2DModel
from jaxtyping import Float
from torch import Tensor, nn

from .diffusers_config import DiffusersConfig

__all__ = ["DiffusersNetwork"]

MODELS: dict[str, type[Any]] = {"UNet2DModel": UNet2DModel, "DiTTransformer2DModel": DiTTransformer2DModel}


class DiffusersNetwork(nn.Module):
    """Images [b, c, h, w] and times [b, k] to [b, out_channels, h, w]; k is 1, and one more for labels.

    A time may lie between two steps; where those are learnt one by one, the nearest is taken.
    """

    def __init__(self, config: DiffusersConfig, out_channels: int, classes: int) -> None:
        super().__init__()
        self.out_channels, self.classes = out_channels, classes
        self.model = MODELS[config.model](**config.known(MODELS[config.model]))
        self.nearest = config.arguments.get("time_embedding_type") == "learned"
        if isinstance(self.model, DiTTransformer2DModel):
            self._place(self.model)

    @staticmethod
    def _place(model: DiTTransformer2DModel) -> None:
        """The positions are in no file: computed on the CPU even where the weights are built on the meta device."""
        given = cast(Any, model.config)
        with torch.device("cpu"):
            patches = PatchEmbed(
                height=given.sample_size,
                width=given.sample_size,
                patch_size=given.patch_size,
                in_channels=1,
                embed_dim=model.inner_dim,
            )
        cast(Any, model.pos_embed).pos_embed = patches.get_buffer("pos_embed")

    def forward(self, x: Float[Tensor, "b c h w"], times: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        """Evaluate the network."""
        time = times[:, 0].round().long() if self.nearest else times[:, 0]
        labels = times[:, 1].long() if self.classes else None
        return self.model(x, time, class_labels=labels, return_dict=False)[0][:, : self.out_channels]
