"""What training minimises; each formula once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rsrefseg.datasets.referring import Traits
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


def cross_entropy(logits: Tensor, gt_masks: Tensor, counted: Tensor, positive: float = 1.0) -> Tensor:
    """Average binary cross-entropy over all pixels, ignored ones adding zero to the sum but one to the count.

    Args:
        logits: Any shape.
        gt_masks: The same shape, float in [0, 1].
        counted: The same shape, float, 0 where nobody knows.
        positive: Weight of what is there against what is not.

    Returns:
        Scalar.

    Source:
        KyanChen/RSRefSeg configs_RSRefSeg/RSRefSeg-b.py @ c20e056.
    """
    return functional.binary_cross_entropy_with_logits(
        logits, gt_masks, weight=counted, pos_weight=logits.new_tensor(positive)
    )


RARE = 4.0
"""How much more a cell that matches counts than one that does not; most never do."""


def touched(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Shrink masks to cells; a cell that an object only touches lights up, else small ones never prompt.

    Args:
        masks: (n, k, s, s) float, 0 or 1.
        grid: Rows and columns of cells.

    Returns:
        (n, k, *grid) in [0, 1].
    """
    return (3 * functional.adaptive_avg_pool2d(masks, grid)).clamp(max=1)


def alignment_loss(matched: Tensor, classes: Tensor, looked_for: Tensor) -> Tensor:
    """Match every cell with the words of its class: what pretraining gives to larger towers.

    The classes compete with each other and with the background, whose logit is nought.

    Args:
        matched: (b, k, g, g) logits.
        classes: (b, s, s) int64, positions in the k classes; -1 for none of them, below that for unknown; not coarser
            than the cells.
        looked_for: (b, k) bool, whether the image's source labels the class.

    Returns:
        Scalar: cross-entropy; cells with an object count `RARE` times on average, and all cells of a class together as
        much as the root of their number, since roads would drown vehicles.
    """
    grid = (matched.shape[2], matched.shape[3])
    there = class_cells(classes, matched.shape[1], grid)  # (b, k, g, g)
    nothing = (1 - there.sum(1, keepdim=True)).clamp(min=0)  # (b, 1, g, g)
    truth = torch.cat([nothing, there], dim=1) / (nothing + there.sum(1, keepdim=True))
    logits = matched.masked_fill(~looked_for[:, :, None, None], -1e4)
    logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)  # (b, 1 + k, g, g)
    known = functional.adaptive_avg_pool2d((classes >= -1).float()[:, None], grid)[:, 0]
    cells = truth[:, 1:].sum((0, 2, 3))  # (k,)
    each = (cells.sum() / cells.clamp(min=1).sqrt().sum()) / cells.clamp(min=1).sqrt()
    weight = known * torch.einsum("bkhw,k->bhw", truth, torch.cat([each.new_ones(1), RARE * each]))
    return (weight * functional.cross_entropy(logits, truth, reduction="none")).sum() / weight.sum().clamp(min=1)


def class_cells(classes: Tensor, k: int, grid: tuple[int, int]) -> Tensor:
    """Shrink a map of classes to cells, as `touched` does masks.

    Args:
        classes: (b, s, s) int64, positions in k classes; below 0 for none of them.
        k: How many classes there are.
        grid: Rows and columns of cells.

    Returns:
        (b, k, *grid) in [0, 1].
    """
    one_hot = functional.one_hot(classes.clamp(min=-1) + 1, k + 1)[..., 1:]
    return touched(one_hot.permute(0, 3, 1, 2).float(), grid)


def choosing_loss(found: Tensor, gt_masks: Tensor, kinds: Tensor, weight: Tensor) -> Tensor:
    """Ask that of all objects of a kind those meant are found and the others are not, however small they are.

    Averaged over all cells of an image, as in `finding_loss`, one vehicle too many costs next to nothing.

    Args:
        found: (n, g, g) logits.
        gt_masks: (n, s, s) float in [0, 1].
        kinds: (n, k, g, g) in [0, 1], the cells of each class, as `class_cells` has them.
        weight: (n, g, g) float, how much each cell counts.

    Returns:
        Scalar: cross-entropy, what is meant counting as much as all the others of its kind together.
    """
    meant = touched(gt_masks[:, None], (found.shape[1], found.shape[2]))[:, 0]  # (n, g, g)
    kind = torch.einsum("nkhw,nhw->nk", kinds, meant).argmax(1)
    others = (kinds[torch.arange(len(kind), device=kind.device), kind] - meant).clamp(min=0)
    told = (meant.amax((1, 2)) > 0)[:, None, None].float()  # words that name nothing choose among nothing
    missed = _average(functional.softplus(-found), weight * meant)
    taken = _average(functional.softplus(found), weight * others * told)
    return (missed + taken).mean() / 2


def _average(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)  # nought where nothing counts


def finding_loss(found: Tensor, gt_masks: Tensor, counted: Tensor) -> Tensor:
    """Ask of each expression's coarse activation that it is right cell by cell, and right about which cells of all.

    The second part, cross-entropy over the cells of an image, owes a small object as much as a large one and is what
    parts the leftmost from the rest.

    Args:
        found: (n, g, g) logits.
        gt_masks: (n, s, s) float in [0, 1].
        counted: (n, s, s) float, 0 where nobody knows.

    Returns:
        Scalar.
    """
    grid = (found.shape[1], found.shape[2])
    known = (functional.adaptive_avg_pool2d(counted[:, None], grid)[:, 0] > 0.5).float()  # (n, g, g)
    there = touched(gt_masks[:, None], grid)[:, 0] * known  # (n, g, g)
    each = cross_entropy(found, there, known, RARE)
    claimed = found.masked_fill(known == 0, -1e4).flatten(1).log_softmax(1)  # (n, g * g)
    owed = there.flatten(1) / there.sum((1, 2)).clamp(min=1e-6)[:, None]
    surprise = -(owed * (claimed - owed.clamp(min=1e-6).log())).sum(1)  # nought where the words name nothing
    return each + surprise.mean() / 2


def traits_loss(read: Tensor, traits: Traits) -> Tensor:
    """Ask of every cell of an object where the object's middle lies, how large it is, and of which colour.

    Args:
        read: (b, 3 + colours, g, g), as `comparison.traits_of` has them.
        traits: Of the same images.

    Returns:
        Scalar: Huber's loss of the centre, in eighths of the image's side, and of the size, with the cross-entropy of
        the colour where it is known.
    """
    place, size, colours = read[:, :2], read[:, 2], read[:, 3:]
    off = functional.smooth_l1_loss(8 * place, 8 * traits.centre, reduction="none", beta=0.1).sum(1)
    off = off + functional.smooth_l1_loss(size, traits.size, reduction="none", beta=0.25)
    painted = traits.weight * (traits.colour >= 0)
    other = functional.nll_loss(colours, traits.colour.clamp(min=0), reduction="none")
    each = (traits.weight * off).sum() / traits.weight.sum().clamp(min=1)
    return each + 0.5 * (painted * other).sum() / painted.sum().clamp(min=1)


def drawing_loss(decoded: Decoded, gt_masks: Tensor, counted: Tensor, *, bce: float, dice: float, iou: float) -> Tensor:
    """Add up what the masks owe: the pixels, and the decoder's estimate of its own IoU.

    Args:
        decoded: The model's output for n expressions.
        gt_masks: (n, s, s) float in [0, 1], at the size that is drawn.
        counted: (n, s, s) float, 0 where nobody knows.
        bce: Weight of the cross-entropy; the paper's is 5.
        dice: Weight of the Dice loss.
        iou: Weight of the squared error of the predicted IoU.

    Returns:
        Scalar.
    """
    logits = decoded.low_res_logits.float()
    loss = bce * cross_entropy(logits, gt_masks, counted) + dice * dice_loss(logits, gt_masks, counted)
    with torch.no_grad():
        drawn, truth = (logits > 0) & (counted > 0), (gt_masks > 0.5) & (counted > 0)
        union = (drawn | truth).sum((1, 2))
        reached = torch.where(union > 0, (drawn & truth).sum((1, 2)) / union.clamp(min=1), 1.0)
    return loss + iou * functional.mse_loss(decoded.predicted_iou.float(), reached)
