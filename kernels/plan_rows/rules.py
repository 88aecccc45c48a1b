"""What a method knows when its plan is made on the device: one rule for each way from that to the rows of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastmix.kernels.plan import Plan


@dataclass
class Around:
    """SaliencyMix. BOX: sides int64 [2,n], height and width before it is clipped, around the partner's `peak`, a pixel
    (row, column) of each image, int32 [B,2]. What is drawn is of all samples (n = 1) or of each (n = B), as below.
    """

    peak: Tensor
    sides: Tensor


@dataclass
class Squares:
    """SMMix. WINDOW: of attention float32 [B,h,w] the square of `side` cells with the least sum, which shows that of
    the partner with the largest; the first in order where several are alike.
    """

    attention: Tensor
    side: int


@dataclass
class Stretched:
    """SnapMix. RESIZED: boxes int64 [2,4,n], the one that is filled and the one that is taken from the partner; labels
    by the percent map of activation float32 [B,h,w] in each (kernels/plan_rows/percent.py). Where samples are `alike`,
    bool [B], both labels have the sum of the two weights.
    """

    activation: Tensor
    boxes: Tensor
    alike: Tensor | None = None


@dataclass
class Top:
    """AttentiveMix, MergeMix. CELLS: the image's own are the k most attended of attention float32 [B,h,w], the first in
    order of equals; k = floor(of * share), share float64 [n], at least `least`.

        rank_c = #{d: a_d > a_c} + #{d < c: a_d = a_c},    own_c = rank_c < k
    """

    attention: Tensor
    share: Tensor
    of: int
    least: int = 0


@dataclass
class Grafted:
    """Saliency Grafting. CELLS: of the cells that stand out each is the image's own with probability p, one at least;
    saliency float32 [B,h,w], not negative, p float32 [B], uniform float32 [B,h*w] from [0, 1).

        e_c = exp((s_c / max s - 1) / temperature),    C = {c: e_c >= mean e}
        own = {c in C: u_c < p or u_c <= min_C u}

    e is softmax(s / (max s * temperature)) up to its sum. All zeros are all equal: C is everything. Labels: I_i and
    I_j, scaled to sum to one, with I_i = |s_i own| / |s_i| and I_j = |s_j (1 - own)| / |s_j|.
    """

    saliency: Tensor
    p: Tensor
    uniform: Tensor
    temperature: float


@dataclass
class Tokens:
    """TokenMix. CELLS: pasted bool [n,h,w] are the partner's; labels by the shares of activation float32 [B,h,w], not
    negative, in what is shown of each: they need not sum to one, and are 0 where the activation is.
    """

    activation: Tensor
    pasted: Tensor


@dataclass
class Blocks:
    """PuzzleMix. BLOCKS: block c shows `weight` float32 [B,n] of block first[i,c] of the image and the rest of block
    second[i,c] of the partner; int32 [B,n] each, or [n] for all samples.
    """

    first: Tensor
    second: Tensor
    weight: Tensor
    grid: tuple[int, int]


@dataclass
class Groups:
    """Co-Mixup. BLOCKS: each block of output `own` of a group shows half of each of two of the group's images, `shown`
    int32 [G,m,n,2], as kernels.comixup has them; sizes int32 [G]. Output i, of the image `first[i] + own[i]`, is number
    own[i] of group[i], which begins with image first[i]; int64 [B] each.

    Labels: sources and weights, image i first, then the rest of its group, as far as there is one; own is how much of
    image i it shows, partner the other image that it shows most of, the first of equals, or itself.
    """

    shown: Tensor
    sizes: Tensor
    own: Tensor
    group: Tensor
    first: Tensor
    grid: tuple[int, int]


@dataclass
class Attended:
    """TransMix. The rows of a plan of boxes with other labels: that of the image itself becomes `ratio` of what it was
    and the rest of the share that attention float32 [B,h,w] to patches has outside the box; where there is no attention
    that share is what it was.
    """

    attention: Tensor
    plan: Plan
    ratio: float


@dataclass
class Weights:
    """SuperMix. MAP: own float32 [B,H,W], a weight in [0,1] for each pixel; the label weight of the image itself is
    `label`, float32 [B].
    """

    own: Tensor
    label: Tensor


@dataclass
class Ratio:
    """GuidedMixup. MAP: a / (a + b), a = r_i s_i, b = r_j s_j, of maps s float32 [B,H,W], not negative, and factors r
    float32 [B]; 1/2 where both are 0. out: memory for the map of the plan, int32 [B,H,W], on the CPU.
    """

    maps: Tensor
    scale: Tensor
    out: Tensor | None = None


Rule = Around | Squares | Stretched | Top | Grafted | Tokens | Blocks | Groups | Attended | Weights | Ratio
