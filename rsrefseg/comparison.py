"""Telling one of several apart: what words want of an object, weighed against the others of its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsrefseg.position import cell_centres

CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))
"""What "top left" and "in the centre" are near to: x, then y."""

GAIN = 8.0
"""Of what words weigh: an extreme shows in hundredths of an image's side, and has to turn a match by several logits."""

MOST = 8.0
"""Logits that a cell may lose; the rest would only make mistakes dearer than they are."""

CLEAR = 6.0
"""Worth that the best of a kind is ahead of the next where the grammar just dares to name it; half of it decides."""

FITS = 32.0
"""What the logarithm of the chance that a cell is of the kind weighs, where the best of the kind is looked for."""

WITNESSES = 256
"""Cells, those that are surest of the kind, that the others ask what their objects are like."""

_HARDLY = 0.01
"""The chance to be of the kind below which a cell neither asks nor is asked."""

_NEARBY = 0.25
"""How far apart, in sides of an object, cells may place its middle and still mean the same."""


def traits_of(seen: Tensor) -> Tensor:
    """Turn what a convolution says of each cell into traits of the object that the cell belongs to.

    Args:
        seen: (b, 3 + colours, g, g): how far the object's centre lies from the cell's, in cells, x then y; half the
            logarithm of its area in cells; a logit for each colour.

    Returns:
        The same shape: its centre as shares of the image's sides, the same size, and the logarithm of the chance
        of each colour.
    """
    h, w = seen.shape[2:]
    seen = seen.to(torch.promote_types(seen.dtype, torch.float32))  # half of that loses places
    away, size, colours = seen.split([2, 1, seen.shape[1] - 3], dim=1)
    cells = cell_centres((h, w), seen.device, seen.dtype).permute(2, 0, 1)  # (2, g, g)
    centre = cells + away / away.new_tensor([w, h])[:, None, None]
    return torch.cat([centre, size, colours.log_softmax(1)], dim=1)


@torch.no_grad()
def agreed(traits: Tensor, chances: Tensor) -> Tensor:
    """Let cells that mean the same object agree on what it is like.

    Each cell reads its object by itself: the middle a quarter of the object's side wrong, the cells at its rim worse.
    Those that place a middle close by are the same object's, and what they say on average is better.

    Args:
        traits: (n, 3 + colours, g, g), as `traits_of` has them.
        chances: (n, g, g) in [0, 1], that a cell is of the kind that is talked of: others have no say.

    Returns:
        The same shape as the traits. No gradient: traits are taught by what is true of the image.
    """
    h, w = traits.shape[2:]
    kept = traits.flatten(2).clone()  # (n, f, g * g)
    for own, chance in zip(kept, chances.flatten(1), strict=True):
        asking = (chance > _HARDLY).nonzero()[:, 0]
        said, sure = own[:, asking], chance[asking]  # (f, m), (m,)
        sure, which = sure.topk(min(WITNESSES, len(sure)))
        heard = said[:, which]  # (f, k)
        reach = _NEARBY * (0.7 + said[2].exp())  # in cells; of the smallest objects a sixth of one
        apart = (w * (said[0][:, None] - heard[0])).square_()  # (m, k)
        apart += (h * (said[1][:, None] - heard[1])).square_()
        weight = apart.div_(-2 * reach[:, None] * reach[which]).exp_().mul_(sure)
        alone = 1e-3  # a cell that nobody agrees with keeps its own
        own[:, asking] = (heard @ weight.T + alone * said) / (weight.sum(1) + alone)
    return kept.view_as(traits)


class Wishes(NamedTuple):
    """What m expressions want of the objects of a kind."""

    wanted: Tensor
    """(m, 4 + places): how much of x, y, size, distance from the landmark, and from each of `CORNERS`."""
    strictness: Tensor
    """(m,): before the sigmoid, the share that counts of what an object loses by falling short of the best."""
    outright: Tensor
    """(m, 3 + colours): what side it has to lie on, x and y; what is lost by the logarithm of the chance of each
    colour; and what is added."""


class Comparison(nn.Module):
    """Let words weigh the objects of a kind against each other, by traits that the image encoder reads off every cell.

    One product between an expression and a cell can say "a ship"; whether it is the leftmost, the largest or the one
    nearest the bridge depends on the other ships and on the bridge. Each cell knows where the middle of its object
    lies, how large it is and of which colour. An expression says which of these it wants much of, and each cell is
    told whether its object falls clearly short of the best of that kind.

    Args:
        clip_dim: Channels c of the space that words and cells share.
        colours: How many colours the encoder tells apart.

    Source:
        Attributes, places and relations that words weigh apart: Yu et al., MAttNet, arXiv 1801.08186.
    """

    def __init__(self, clip_dim: int, colours: int) -> None:
        super().__init__()
        self.kind = nn.Linear(clip_dim, clip_dim, bias=False)
        self.landmark = nn.Linear(clip_dim, clip_dim, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(2.0).log())
        self.threshold = nn.Parameter(torch.tensor(1.5))
        self.wanted = nn.Linear(clip_dim, 4 + len(CORNERS))
        self.strictness = nn.Linear(clip_dim, 1)
        self.outright = nn.Linear(clip_dim, 3 + colours)
        for same in (self.kind, self.landmark):
            nn.init.eye_(same.weight)
        nn.init.normal_(self.wanted.weight, std=0.01)
        for quiet in (self.strictness, self.outright):
            nn.init.zeros_(quiet.weight)
        for linear in (self.wanted, self.outright):
            nn.init.zeros_(linear.bias)
        nn.init.constant_(self.strictness.bias, -1.5)

    def forward(
        self,
        cells: Tensor,
        traits: Tensor,
        pooled: Tensor,
        logit: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Correct what expressions matched.

        Args:
            cells: (n, c, g, g), the features of the image that each expression is about, a unit long.
            traits: (n, 3 + colours, g, g), of the same images, as `traits_of` has them.
            pooled: (n, c), the expressions.
            logit: From a cosine to the logit that a cell is of what the words say.

        Returns:
            (n, g, g), to be added to the logits; in float32 at the least.
        """
        with torch.autocast(cells.device.type, enabled=False):
            words = functional.normalize(pooled.to(traits.dtype), dim=1)  # (n, c)
            asked = torch.stack([_through(self.kind, words), _through(self.landmark, words)], dim=1)
            asked = functional.normalize(asked, dim=2)  # (n, 2, c)
            alike = logit(torch.einsum("nchw,nkc->nkhw", cells, asked)) - self.threshold  # (n, 2, g, g)
            fits, marked = functional.logsigmoid(self.sharpness.exp() * alike).unbind(1)  # (n, g, g) each
            # Where the landmark is: nothing is weighed against what fits, so it can be softer.
            mark = ((FITS / 4 * marked.flatten(1)).softmax(1)[:, None] * traits[:, :2].flatten(2)).sum(2)  # (n, 2)
            traits = agreed(traits, fits.exp())
            place, size, colours = traits.split([2, 1, traits.shape[1] - 3], dim=1)
            points = torch.cat([mark[:, None], mark.new_tensor(CORNERS).expand(len(mark), -1, -1)], dim=1)
            aside, below = (place[:, None] - points[..., None, None] + 1e-4).unbind(2)
            away = torch.hypot(aside, below)  # (n, 6, g, g); a norm of two numbers takes eighty times as long
            loud = words * words.shape[1] ** 0.5
            wanted = GAIN * _through(self.wanted, loud)  # (n, 9)
            worth = torch.einsum("nf,nfhw->nhw", wanted, torch.cat([place, size, away], dim=1))  # (n, g, g)
            # What hardly fits must count for nothing however far out it lies, and all that fit well count the same.
            best = ((FITS * fits + worth).flatten(1).softmax(1) * worth.flatten(1)).sum(1)  # (n,)
            strict = torch.sigmoid(_through(self.strictness, loud))[:, 0]  # (n,)
            side, paint, base = _through(self.outright, loud).split([2, colours.shape[1], 1], dim=1)
            # Whether it falls short counts, not how far; nothing gains by being farther left than the leftmost.
            short = MOST * torch.sigmoid(best[:, None, None] - worth - CLEAR / 2)  # (n, g, g)
            wrong = functional.softplus(-GAIN * torch.einsum("nf,nfhw->nhw", side, place - 0.5))  # (n, g, g)
            painted = torch.einsum("nf,nfhw->nhw", paint, colours)  # (n, g, g)
            lost = (wrong + strict[:, None, None] * short - painted) / MOST
            correction: Tensor = base[..., None] - MOST * lost.tanh()
            return correction

    @torch.no_grad()
    def tell(self, pooled: Tensor, kinds: Tensor, landmarks: Tensor, wishes: Wishes) -> None:
        """Let expressions of known meaning want what they mean: the nearest linear maps, by ridge regression.

        Args:
            pooled: (m, c), the expressions as the text tower has them.
            kinds: (m, c), the words of the class that each is about.
            landmarks: (m, c), the words of the class that it is near to; zeros where it is near to none.
            wishes: Of the same expressions.
        """
        words = functional.normalize(pooled, dim=1)
        square = words.T @ words + 1e-3 * len(words) / words.shape[1] * torch.eye(words.shape[1])
        for linear, wanted in (
            (self.kind, functional.normalize(kinds, dim=1)),
            (self.landmark, functional.normalize(landmarks, dim=1)),
            (self.wanted, wishes.wanted / GAIN),
            (self.strictness, wishes.strictness[:, None]),
            (self.outright, wishes.outright),
        ):
            mean = torch.zeros(1) if linear.bias is None else wanted.mean(0)
            weight = torch.linalg.solve(square, words.T @ (wanted - mean)).T  # (out, c)
            loud = 1.0 if linear.bias is None else words.shape[1] ** 0.5
            linear.weight.copy_(weight / loud)
            if linear.bias is not None:
                linear.bias.copy_(mean)


def _through(linear: nn.Linear, x: Tensor) -> Tensor:
    # In the precision of x, whatever that of the weights.
    return functional.linear(x, linear.weight.to(x.dtype), None if linear.bias is None else linear.bias.to(x.dtype))
