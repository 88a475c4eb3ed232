"""Muon, with matrices of the same shape orthogonalised together.

PyTorch's Muon walks over the matrices one by one; a Transformer's are many, small and alike, so that one batched
product does the work of dozens. Everything else is as there (and in https://kellerjordan.github.io/posts/muon/),
except for the iteration's coefficients, which are Polar Express's: optimal for the number of iterations.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

# Polar Express (arXiv 2505.16932), for singular values in [10⁻³, 1]; one (a, b, c) of aX + bX³ + cX⁵ per iteration,
# made for X / 1.01, so that bfloat16's rounding cannot push a singular value out of the range that converges.
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
COEFFICIENTS = tuple((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _POLAR_EXPRESS)


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised matrix by matrix.

    Args:
        params: matrices (rows, columns).
        lr: learning rate of a square matrix; of a tall one it is multiplied by √(rows / columns).
        momentum: of the averaged gradient.
        weight_decay: decoupled.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, all matrices of a shape at once."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for (rows, columns), matrices in by_shape.items():
                updates = orthogonalize(torch.stack([self._update(m, group["momentum"]) for m in matrices]))
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.sub_(update, alpha=rate)

    def _update(self, matrix: Tensor, momentum: float) -> Tensor:
        """Nesterov's look ahead from the averaged gradient."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


def orthogonalize(matrices: Float[Tensor, "matrices rows columns"]) -> Float[Tensor, "matrices rows columns"]:
    """Roughly U Vᵀ of each matrix U Σ Vᵀ, by Newton–Schulz iterations in bfloat16."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # a spectral norm of at most 1
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
