"""MEmeL for PyTorch, on one screen, and how it is tested against minimono's oracle.

Test it:  python -m pytest demos/oracle/torch_memel.py         (needs torch)
Written from the documentation page "The oracle" only; take it as the beginning of your own.
"""

import math

import torch
from torch import Tensor, nn

from minimono import oracle


class Deactivate(torch.autograd.Function):
    """Flagged values become their neuron's mean, with gradient -strength."""

    @staticmethod
    def forward(ctx, z, mask, mean, strength):
        ctx.save_for_backward(mask)
        ctx.strength = strength
        return torch.where(mask, mean.to(z.dtype), z)

    @staticmethod
    def backward(ctx, upstream):
        (mask,) = ctx.saved_tensors
        return torch.where(mask, -ctx.strength * upstream, upstream), None, None, None


def monosemantic_scale(z: Tensor, mean: Tensor, variance: Tensor, *, compensation: float) -> Tensor:
    """(z - mean)² / (variance + compensation · mean(variance)); nan where that is 0."""
    below = variance + compensation * variance.mean()
    return (z - mean) ** 2 / torch.where(below > 0, below, math.nan)


class MEmeL(nn.Module):
    """In training, deactivate in each sample the k activations with the highest scale."""

    def __init__(self, k=1, strength=1.0, *, convention="paper", forget_after=10, start_after=10,
                 compensation=0.01):
        super().__init__()
        self.k, self.strength, self.convention = k, strength, convention
        self.forget_after, self.start_after = forget_after, start_after
        self.compensation = compensation
        self.batches = self.count = 0

    def forward(self, z: Tensor) -> Tensor:
        if not self.training:
            return z
        values = z.detach().double()  # float64: sequential float32 moments lose digits
        before = (self.mean, self.variance) if self.batches else None
        self.update(values)
        if before is None or self.batches <= self.start_after:
            return z
        mean, variance = before if self.convention == "paper" else (self.mean, self.variance)
        phi = monosemantic_scale(values, mean, variance, compensation=self.compensation)
        if self.convention == "paper":
            phi = torch.where(variance > 0, phi, math.nan)  # a constant neuron is never flagged
        flat = phi.flatten(1)  # (B, *neurons) -> (B, neurons)
        ranked = flat.nan_to_num(nan=-math.inf, posinf=math.inf)
        kth = ranked.topk(self.k, dim=1).values[:, -1:]  # (B, 1)
        mask = ((ranked >= kth) & ~flat.isnan()).view_as(phi)
        return Deactivate.apply(z, mask, mean, self.strength)

    def update(self, values: Tensor) -> None:
        """Merge a batch into the running moments; the past weighs forget_after batches at most."""
        b = len(values)
        mean = values.mean(dim=0)
        m2 = ((values - mean) ** 2).sum(dim=0)
        if self.batches == 0:
            self.count, self.mean, self.variance = b, mean, m2 / (b - 1)
        else:
            if self.convention == "authors":
                past = min(self.batches + 1, self.forget_after) * b
            else:
                past = self.count if self.batches < self.forget_after else self.forget_after * b
            shift = mean - self.mean
            m2 = m2 + (past - 1) * self.variance + shift**2 * (past * b / (past + b))
            self.mean = self.mean + shift * (b / (past + b))
            self.count = past + b
            self.variance = m2 / (self.count - 1)
        self.batches += 1


def deactivate(z: Tensor, mask: Tensor, mean: Tensor, strength: float, upstream: Tensor):
    """The value, and the gradient for `upstream`, as the oracle asks for them."""
    z.requires_grad_()
    value = Deactivate.apply(z, mask, mean, strength)
    return value, *torch.autograd.grad(value, z, upstream)


@oracle.parametrize_with_checks(
    {"MEmeL": MEmeL, "deactivate": deactivate, "monosemantic_scale": monosemantic_scale},
    convert=torch.from_numpy,
)
def test_against_minimono(check):
    check()
