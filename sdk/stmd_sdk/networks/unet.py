"""A U-Net for images: diffusers' ``UNet2DModel`` with several times and forward-mode safe attention."""

from __future__ import annotations

from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.unets.unet_2d import UNet2DModel
from jaxtyping import Float
from torch import Tensor, nn

from .config import UNetConfig
from .embedding import TimesEmbedding

__all__ = ["UNet"]


class ContiguousAttention:
    """Plain attention with a contiguous result: both have forward-mode derivatives, fused kernels do not.

    Without it the activations behind an attention layer are channels-last, for which GroupNorm has no
    forward-mode rule.
    """

    def __init__(self) -> None:
        self.plain = AttnProcessor()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend as diffusers does, which passes these arguments by name."""
        return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb).contiguous()


class UNet(nn.Module):
    """Images [b, in_channels, h, w] and times [b, times] to [b, out_channels, h, w]."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, times: int) -> None:
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
                module.set_processor(ContiguousAttention())  # type: ignore[arg-type]
        self.embed = TimesEmbedding(times, config.embedding_width, 4 * config.channels[0])
        self.fold = nn.PixelUnshuffle(config.patch_size)
        self.unfold = nn.PixelShuffle(config.patch_size)

    def forward(self, x: Float[Tensor, "b c_in h w"], times: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        """Evaluate the network. UNet2DModel's own timestep stays 0: all times enter through the embedding."""
        return self.unfold(self.unet(self.fold(x), 0, class_labels=self.embed(times)).sample)
