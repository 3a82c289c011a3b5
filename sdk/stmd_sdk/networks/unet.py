"""A U-Net for images: diffusers' ``UNet2DModel`` with several times and forward-mode safe attention."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d import UNet2DModel
from jaxtyping import Float
from torch import Tensor, nn

from .embedding import TimesEmbedding
from .unet_config import UNetConfig

__all__ = ["UNet"]


class LayoutAttention:
    """Attention that keeps its input's layout: plain where derivatives are taken, fused in inference mode and exports.

    Plain attention has forward-mode derivatives. The fused kernel has none, but it never writes the weights
    [b, tokens, tokens] down; exported, it is two products, where plain attention adds one to a tensor of zeros. The
    layout, because the activations behind an attention layer would else be channels-last always, for which GroupNorm
    has no forward-mode rule.
    """

    def __init__(self) -> None:
        self.plain, self.fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend as diffusers does, which passes these arguments by name."""
        fused = torch.is_inference_mode_enabled() or torch.compiler.is_exporting()
        attend = self.fused if fused else self.plain
        attended = attend(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        layout = torch.contiguous_format if hidden_states.is_contiguous() else torch.channels_last
        return attended.contiguous(memory_format=layout)


class UNet(nn.Module):
    """Images [b, in_channels, h, w] and times [b, k] to [b, out_channels, h, w].

    k is ``times``, and one more for the labels of a network with ``classes``.
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, times: int, classes: int = 0) -> None:
        super().__init__()
        levels = range(len(config.channels))
        area = config.patch_size**2
        self.unet = UNet2DModel(
            in_channels=in_channels * area,
            out_channels=out_channels * area,
            block_out_channels=config.channels,
            down_block_types=tuple("AttnDownBlock2D" if i in config.attention else "DownBlock2D" for i in levels),
            up_block_types=tuple("AttnUpBlock2D" if i in config.attention else "UpBlock2D" for i in reversed(levels)),
            layers_per_block=config.layers_per_block,
            downsample_padding=config.downsample_padding,
            norm_num_groups=config.groups,
            class_embed_type="identity",
            num_class_embeds=None,
        )
        for module in self.unet.modules():
            if isinstance(module, Attention):
                module.set_processor(LayoutAttention())  # type: ignore[arg-type]
        # UNet2DModel's own timestep stays 0: all times enter through the embedding. From the number diffusers would
        # copy one to the device in each call. Made on the CPU even where the weights are built on the meta device.
        self.register_buffer("timestep", torch.zeros(1, dtype=torch.long, device="cpu"), persistent=False)
        self.embed = TimesEmbedding(times, config.embedding_width, 4 * config.channels[0], classes)
        self.fold = nn.PixelUnshuffle(config.patch_size)
        self.unfold = nn.PixelShuffle(config.patch_size)

    def forward(self, x: Float[Tensor, "b c_in h w"], times: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        """Evaluate the network."""
        return self.unfold(self.unet(self.fold(x), self.timestep, class_labels=self.embed(times)).sample)
