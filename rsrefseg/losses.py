"""What training minimises; each formula once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rsrefseg.model import Decoded


def dice_loss(logits: Tensor, gt_masks: Tensor, counted: Tensor) -> Tensor:
    """Measure the overlap that small objects are owed, whatever their share of the image.

    Args:
        logits: (n, h, w).
        gt_masks: (n, h, w) float, 0 or 1.
        counted: (n, h, w) float, 0 where nobody knows.

    Returns:
        Scalar in [0, 1], the mean over n of one minus the soft Dice coefficient, smoothed by one pixel.

    Source:
        Milletari et al., V-Net, arXiv 1606.04797.
    """
    probability = torch.sigmoid(logits) * counted
    agreed = (probability * gt_masks).sum((1, 2))
    claimed = probability.sum((1, 2)) + (gt_masks * counted).sum((1, 2))
    return (1 - (2 * agreed + 1) / (claimed + 1)).mean()


def cross_entropy(logits: Tensor, gt_masks: Tensor, counted: Tensor) -> Tensor:
    """Average binary cross-entropy over all pixels, ignored ones adding zero to the sum but one to the count.

    Args:
        logits: (n, h, w).
        gt_masks: (n, h, w) float in [0, 1].
        counted: (n, h, w) float, 0 where nobody knows.

    Returns:
        Scalar.

    Source:
        KyanChen/RSRefSeg configs_RSRefSeg/RSRefSeg-b.py @ c20e056.
    """
    return functional.binary_cross_entropy_with_logits(logits, gt_masks, weight=counted)


def total_loss(
    decoded: Decoded, gt_masks: Tensor, counted: Tensor, *, bce: float, dice: float, activation: float, iou: float
) -> Tensor:
    """Add the parts up: mask, coarse match between words and cells, and the decoder's estimate of its own IoU.

    Args:
        decoded: The model's output for n expressions.
        gt_masks: (n, s, s) float, 0 or 1, at the image's input size.
        counted: (n, s, s) float, 0 where nobody knows.
        bce: Weight of the cross-entropy; the paper's is 5.
        dice: Weight of the Dice loss.
        activation: Weight of the cross-entropy of the global activation.
        iou: Weight of the squared error of the predicted IoU.

    Returns:
        Scalar.
    """
    low = decoded.low_res_logits.float()
    logits = functional.interpolate(low[:, None], size=gt_masks.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    loss = bce * cross_entropy(logits, gt_masks, counted) + dice * dice_loss(logits, gt_masks, counted)
    grid = (decoded.activation.shape[1], decoded.activation.shape[2])
    coarse = functional.adaptive_avg_pool2d(gt_masks[:, None], grid)[:, 0]
    known = functional.adaptive_avg_pool2d(counted[:, None], grid)[:, 0]
    # A cell that an object only touches still has to light up, else small ones never prompt.
    loss = loss + activation * cross_entropy(decoded.activation.float(), (3 * coarse).clamp(max=1), known)
    with torch.no_grad():
        drawn, truth = (logits > 0) & (counted > 0), (gt_masks > 0.5) & (counted > 0)
        union = (drawn | truth).sum((1, 2))
        reached = torch.where(
            union > 0, (drawn & truth).sum((1, 2)) / union.clamp(min=1), torch.ones_like(union, dtype=torch.float32)
        )
    return loss + iou * functional.mse_loss(decoded.predicted_iou.float(), reached)
