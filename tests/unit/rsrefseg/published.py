"""RSRefSeg a second time, on transformers and peft: what our graph and our converter are compared with.

Nothing of ours is in it. The modules carry the names that published checkpoints know, and the arithmetic follows
KyanChen/RSRefSeg rsris/models/models.py @ c20e056 for one image and one unpadded expression.
"""

import math

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import SamConfig, SiglipConfig
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPositionalEmbedding,
    SamPromptEncoder,
    SamVisionEncoder,
)
from transformers.models.siglip.modeling_siglip import SiglipTextModel, SiglipVisionModel

SAM_MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
SAM_STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]


def sam_config(width, layers, heads, global_layers, image_size=1024, window=14, decoder_dim=256, decoder_mlp=2048):
    config = SamConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "global_attn_indexes": list(global_layers),
            "image_size": image_size,
            "window_size": window,
            "output_channels": decoder_dim,
            "num_pos_feats": decoder_dim // 2,
            "mlp_dim": 4 * width,
        },
        prompt_encoder_config={
            "hidden_size": decoder_dim,
            "image_size": image_size,
            "image_embedding_size": image_size // 16,
        },
        mask_decoder_config={"hidden_size": decoder_dim, "mlp_dim": decoder_mlp},
    )
    for part in (config, config.vision_config, config.prompt_encoder_config, config.mask_decoder_config):
        part._attn_implementation = "sdpa"  # "eager" takes its softmax in float32
    return config


def siglip_config(width, layers, heads, mlp_dim, image_size=384, patch_size=14, vocab_size=32_000, positions=64):
    shared = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp_dim,
    }
    config = SiglipConfig(
        vision_config={**shared, "image_size": image_size, "patch_size": patch_size},
        text_config={
            **shared,
            "vocab_size": vocab_size,
            "bos_token_id": None,
            "eos_token_id": 1,
            "max_position_embeddings": positions,
            "projection_size": width,
        },
    )
    for part in (config, config.vision_config, config.text_config):
        part._attn_implementation = "sdpa"
    return config


class Wrapped(nn.Module):
    """A model one step down, as upstream's modules hold it."""

    def __init__(self, model, **parts):
        super().__init__()
        self.model = model
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


class ConvModule(nn.Module):
    """mmcv's: no bias where a norm follows, which it calls `bn`."""

    def __init__(self, c_in, c_out, kernel, stride=1, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=not norm)
        if norm:
            self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x):
        x = self.conv(x)
        return functional.gelu(self.bn(x)) if hasattr(self, "bn") else x


class PublishedRSRefSeg(nn.Module):
    def __init__(self, sam, siglip, rank=16, alpha=16):
        super().__init__()
        width, d = siglip.vision_config.hidden_size, sam.vision_config.output_channels
        self.side = siglip.vision_config.image_size
        self.backbone = self._adapted(
            Wrapped(
                SamVisionEncoder(sam.vision_config), shared_image_embedding=SamPositionalEmbedding(sam.vision_config)
            ),
            ["qkv", "proj", "lin1", "lin2", "neck.conv1", "neck.conv2"],
            rank,
            alpha,
        )
        self.clip_vision_encoder = self._adapted(
            Wrapped(SiglipVisionModel(siglip.vision_config)), ["k_proj", "v_proj", "q_proj", "out_proj"], rank, alpha
        )
        self.clip_text_encoder = self._adapted(
            Wrapped(
                SiglipTextModel(siglip.text_config),
                logit_scale=nn.Parameter(torch.randn(1)),
                logit_bias=nn.Parameter(torch.randn(1)),
            ),
            r"(^model\.encoder\.layers\..*\.self_attn\.(k_proj|v_proj|q_proj|out_proj))|(^model\.head)",
            rank,
            alpha,
        )
        self.sam_prompt_encoder = Wrapped(SamPromptEncoder(sam))
        self.sam_mask_decoder = Wrapped(SamMaskDecoder(sam.mask_decoder_config))
        self.prompter_down_channel = ConvModule(3 * width, d, 1)
        self.prompter_down_spatial = nn.Sequential(
            ConvModule(d, d, 3, 2), ConvModule(d, d, 3, 2), ConvModule(d, d, 1, norm=False)
        )

    @staticmethod
    def _adapted(model, targets, rank, alpha):
        return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.1, target_modules=targets))

    def position(self, size):
        shared = self.backbone.shared_image_embedding
        cells = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        grid = torch.stack([x, y], dim=-1).to(shared.positional_embedding.dtype)
        return shared(grid).permute(2, 0, 1)[None]

    def low_res_logits(self, image: Tensor, token_ids: Tensor) -> Tensor:
        """(3, S, S) in [0, 1] and (t,) ids of one expression, to (S / 4, S / 4)."""
        x = image[None]
        sam = self.backbone((x - SAM_MEAN.to(x)) / SAM_STD.to(x)).last_hidden_state
        small = functional.interpolate((x - 0.5) / 0.5, size=[self.side] * 2, mode="bilinear", align_corners=False)
        v = self.clip_vision_encoder(small).last_hidden_state
        grid = math.isqrt(v.shape[1])
        v = v.transpose(1, 2).reshape(1, -1, grid, grid)
        text = self.clip_text_encoder(input_ids=token_ids[None])
        t, p = text.last_hidden_state, text.pooler_output
        scale, bias = self.clip_text_encoder.logit_scale.exp(), self.clip_text_encoder.logit_bias
        nv, nt, np_ = v / v.norm(dim=1, keepdim=True), t / t.norm(dim=2, keepdim=True), p / p.norm(dim=1, keepdim=True)
        a = torch.sigmoid(torch.einsum("bchw,btc->bthw", nv, nt) * scale + bias)
        f = torch.einsum("bthw,bchw->bchw", a, v) / a.shape[1]
        g = torch.einsum("bchw,bc->bhw", nv, np_) * scale + bias
        activated = torch.cat([(v + f) / 2, torch.sigmoid(g)[:, None] * v, v], dim=1)
        q = self.prompter_down_channel(activated)
        q = self.prompter_down_spatial(q + self.position(grid))
        side = sam.shape[2]
        coarse = functional.interpolate(g[:, None], size=(4 * side, 4 * side), mode="bilinear", align_corners=False)
        _, dense = self.sam_prompt_encoder(input_points=None, input_labels=None, input_boxes=None, input_masks=coarse)
        masks, _ = self.sam_mask_decoder(
            image_embeddings=sam,
            image_positional_embeddings=self.position(side),
            sparse_prompt_embeddings=q.flatten(2).transpose(1, 2)[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[0, 0, 0]


TRUE_SIZES = {
    "b": lambda: (sam_config(768, 12, 12, (2, 5, 8, 11)), siglip_config(1152, 27, 16, 4304)),
    "l": lambda: (sam_config(1024, 24, 16, (5, 11, 17, 23)), siglip_config(1152, 27, 16, 4304)),
}


def published_on_meta(name: str) -> PublishedRSRefSeg:
    with torch.device("meta"):
        return PublishedRSRefSeg(*TRUE_SIZES[name]())


def small_published(seed: int = 0, alpha: float = 16) -> PublishedRSRefSeg:
    """Every kind of block at a size that runs in a blink: padded windows, a global layer, pixels no patch covers."""
    torch.manual_seed(seed)
    sam = sam_config(24, 3, 2, (1,), image_size=208, window=5, decoder_dim=32, decoder_mlp=48)
    siglip = siglip_config(36, 3, 3, 70, image_size=104, vocab_size=50, positions=12)
    model = PublishedRSRefSeg(sam, siglip, rank=4, alpha=alpha)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
            if parameter.ndim > 1 and "embed" not in name:  # transformers starts SAM's near zero
                parameter.add_(0.6 * torch.randn_like(parameter) / math.sqrt(parameter[0].numel()))
        for name, buffer in model.named_buffers():
            if "running_var" in name:
                buffer.uniform_(0.5, 2)
            if "running_mean" in name:
                buffer.normal_()
        model.clip_text_encoder.logit_scale.fill_(2.0)
        model.clip_text_encoder.logit_bias.fill_(-1.0)
        last = model.sam_mask_decoder.model.output_hypernetworks_mlps[0].proj_out
        last.weight.mul_(12)
    return model.eval()
