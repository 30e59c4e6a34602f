"""SAM's upscaling of what its decoder understood, as products of matrices, fast however the weights lie."""

from __future__ import annotations

from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn
from torch.nn import functional


def upscaled(decoder: MaskDecoder, cells: Tensor, eighth: Tensor, quarter: Tensor) -> Tensor:
    """Draw finer, channels last throughout, so that nothing is rearranged between the layers.

    The finer maps are added where SAM 2 adds them: before each activation.

    Args:
        decoder: Whose layers draw.
        cells: (n, h, w, d).
        eighth: (n, d / 4, 2 * h, 2 * w); no channels where there is nothing to add.
        quarter: (n, d / 8, 4 * h, 4 * w); the same.

    Returns:
        (n, 4 * h, 4 * w, d / 8).

    Source:
        facebookresearch/segment-anything segment_anything/modeling/mask_decoder.py; Ravi et al., SAM 2, arXiv
        2408.00714.
    """
    grow8, norm, bend8, grow4, bend4 = decoder.output_upscaling
    x = _with(_doubled(grow8, cells), eighth)
    x = bend8(functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    finest: Tensor = bend4(_with(_doubled(grow4, x), quarter))
    return finest


def _doubled(grow: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    # Windows of 2 x 2 that do not overlap: each cell becomes four by itself. (n, h, w, c) to (n, 2 * h, 2 * w, c_out).
    n, h, w, c = x.shape
    weight = grow.weight.permute(2, 3, 1, 0)  # (2, 2, c_out, c)
    bias = None if grow.bias is None else grow.bias.repeat(4)
    four = functional.linear(x, weight.reshape(-1, c), bias).view(n, h, w, 2, 2, -1)
    return four.transpose(2, 3).reshape(n, 2 * h, 2 * w, -1)


def _with(x: Tensor, shown: Tensor) -> Tensor:
    return x + shown.permute(0, 2, 3, 1) if shown.shape[1] else x
