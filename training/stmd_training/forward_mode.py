"""Forward mode that rides along an ordinary evaluation.

``torch.func.jvp`` under ``no_grad`` evaluates a network once more beside its tangent, and convolves with the zero
tangents of the weights. Here the tangents are taken below autograd, operation by operation, while the network is
evaluated once *with* its graph: the derivative costs about one more evaluation, and no graph is recorded for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from stmd_sdk.errors import TrainingError

__all__ = ["value_and_derivative"]

aten = torch.ops.aten
Rule = Callable[[Any, tuple[Any, ...], dict[str, Any], Any, Callable[[Any], Tensor | None]], Any]
"""The tangent of an operation, from the operation, its arguments, its value and the tangents of its arguments."""


def value_and_derivative(
    function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """``function(*primals)``, and its derivative along ``tangents`` without a graph.

    The derivative has the precision of the evaluation. TrainingError where an operation has no rule here.
    """
    with _Tangents(primals, tangents) as tracked:
        value = function(*primals)
    derivative = tracked.of(value)
    return value, torch.zeros_like(value) if derivative is None else derivative.detach()


@final
class _Tangents(TorchDispatchMode):
    """Tangents by tensor, extended with each operation that takes a tensor with one."""

    def __init__(self, primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> None:
        super().__init__()
        # The tensors are kept beside their tangents: an identity is theirs only as long as they live.
        self.table = {id(x): (x, dx) for x, dx in zip(primals, tangents, strict=True)}

    def of(self, x: Any) -> Tensor | None:
        """The tangent of ``x``; None is zero."""
        return self.table[id(x)][1] if id(x) in self.table else None

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Evaluate, and follow the tangents."""
        kwargs = dict(kwargs or {})
        value = operation(*args, **kwargs)
        moving = any(id(x) in self.table for x in tree_leaves((args, kwargs)))
        smooth = any(isinstance(y, Tensor) and y.is_floating_point() for y in tree_leaves(value))
        if not (moving and smooth) or operation.overloadpacket in CONSTANT:
            return value
        rule = RULES.get(operation.overloadpacket)
        if rule is None or operation._schema.is_mutable:
            raise TrainingError(f'no forward-mode rule for {operation}: train with derivative = "central"')
        tangent = rule(operation, args, kwargs, value, self.of)
        # A norm also returns its statistics, which nothing differentiates: they have no tangent.
        for y, dy in zip(tree_leaves(value), tree_leaves(tangent), strict=False):
            self.table[id(y)] = (y, dy)
        return value


def _linear(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Any:
    """Jointly linear in all its tensors."""

    def tangent(x: Any) -> Any:
        return x if not isinstance(x, Tensor) else torch.zeros_like(x) if of(x) is None else of(x)

    return operation(*tree_map(tangent, args), **kwargs)


def _sum(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
    """x ± y, where a number does not move."""
    x, y = (z if isinstance(z, Tensor) else 0 for z in args)
    return _linear(operation, (x, y), kwargs, value, of).expand_as(value)


def _product(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
    """Linear in each of its first two arguments: the rule of Leibniz."""
    x, y, *rest = args
    terms: list[Tensor] = []
    if of(x) is not None:
        terms.append(operation(of(x), y, *rest, **kwargs))
    if of(y) is not None:
        terms.append(operation(x, of(y), *rest, **kwargs))
    return sum(terms[1:], terms[0])


def _matrix_product(accumulate: Any) -> Rule:
    """[β b +] α x y; ``accumulate`` adds a product to a matrix without another pass over it."""

    def rule(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
        *b, x, y = args
        alpha, tangent = kwargs.get("alpha", 1), None
        if b and of(b[0]) is not None:
            tangent = (kwargs.get("beta", 1) * of(b[0])).expand_as(value)
        for left, right in ((of(x), y), (x, of(y))):
            if left is not None and right is not None:
                beta = 0 if tangent is None else 1
                tangent = accumulate(value if tangent is None else tangent, left, right, beta=beta, alpha=alpha)
        assert tangent is not None  # or the operation would not have been followed
        return tangent

    return rule


def _convolution(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
    x, weight, bias, *rest = args
    if bias is not None and of(bias) is not None:
        raise TrainingError('no forward-mode rule for a bias that moves: train with derivative = "central"')
    return _product(lambda x, weight, *rest: operation(x, weight, None, *rest), (x, weight, *rest), {}, value, of)


def _quotient(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
    x, y = args
    tangent = torch.zeros_like(value) if of(x) is None else of(x) / y
    return tangent if of(y) is None else tangent - value * of(y) / y


def _where(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
    condition, x, y = args
    dx, dy = (torch.zeros_like(value) if of(z) is None else of(z) for z in (x, y))
    return torch.where(condition, dx, dy)


def _elementwise(slope: Callable[..., Tensor]) -> Rule:
    """``slope(dx, x, y, *arguments)`` of y = f(x): the derivative of an elementwise function along dx."""

    def rule(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
        return slope(of(args[0]), args[0], value, *args[1:], **kwargs)

    return rule


# The Jacobian of softmax, and that of a norm without its scale, is symmetric: the kernel that multiplies by its
# transpose in the backward pass serves here too.


def _softmax(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
    x, dim, _ = args
    return aten._softmax_backward_data(of(x), value, dim, x.dtype)


def _group_norm(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
    x, weight, _, *sizes, _ = args
    _, mean, rstd = value
    dx, x = of(x).contiguous(), x.contiguous()
    tangent = aten.native_group_norm_backward(dx, x, mean, rstd, None, *sizes, [True, False, False])[0]
    return tangent if weight is None else tangent * weight.reshape(-1, *[1] * (x.ndim - 2))


def _layer_norm(operation: Any, args: Any, kwargs: Any, value: Any, of: Any) -> Tensor:
    x, shape, weight, _, _ = args
    _, mean, rstd = value
    tangent = aten.native_layer_norm_backward(of(x), x, shape, mean, rstd, None, None, [True, False, False])[0]
    return tangent if weight is None else tangent * weight


def _clamp(dx: Tensor, x: Tensor, y: Tensor, *bounds: Any, **named: Any) -> Tensor:
    return torch.where(x == y, dx, 0)


def _power(dx: Tensor, x: Tensor, y: Tensor, exponent: int | float) -> Tensor:
    return dx * exponent * x ** (exponent - 1)


CONSTANT = (aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full)
LINEAR = (
    "neg", "sum", "mean", "cat", "stack", "view", "_unsafe_view", "reshape", "t", "transpose", "permute",
    "unsqueeze", "squeeze", "expand", "clone", "detach", "alias", "slice", "select", "split", "split_with_sizes",
    "unbind", "index", "_to_copy", "constant_pad_nd", "avg_pool2d", "upsample_nearest2d", "pixel_shuffle",
    "pixel_unshuffle",
)  # fmt: skip
RULES: dict[Any, Rule] = {
    **{getattr(aten, name): _linear for name in LINEAR},
    **{getattr(aten, name): _sum for name in ("add", "sub", "rsub")},
    aten.mul: _product,
    aten.mm: _matrix_product(aten.addmm),
    aten.addmm: _matrix_product(aten.addmm),
    aten.bmm: _matrix_product(aten.baddbmm),
    aten.baddbmm: _matrix_product(aten.baddbmm),
    aten.convolution: _convolution,
    aten.div: _quotient,
    aten.where: _where,
    aten._softmax: _softmax,
    aten.native_group_norm: _group_norm,
    aten.native_layer_norm: _layer_norm,
    aten.clamp: _elementwise(_clamp),
    aten.pow: _elementwise(_power),
    aten.exp: _elementwise(lambda dx, x, y: dx * y),
    aten.expm1: _elementwise(lambda dx, x, y: dx * (y + 1)),
    aten.log: _elementwise(lambda dx, x, y: dx / x),
    aten.sqrt: _elementwise(lambda dx, x, y: dx / (2 * y)),
    aten.rsqrt: _elementwise(lambda dx, x, y: dx * (-0.5 * y**3)),
    aten.sin: _elementwise(lambda dx, x, y: dx * x.cos()),
    aten.cos: _elementwise(lambda dx, x, y: dx * -x.sin()),
    aten.tanh: _elementwise(lambda dx, x, y: aten.tanh_backward(dx, y)),
    aten.sigmoid: _elementwise(lambda dx, x, y: aten.sigmoid_backward(dx, y)),
    aten.silu: _elementwise(lambda dx, x, y: aten.silu_backward(dx, x)),
    aten.gelu: _elementwise(lambda dx, x, y, **named: aten.gelu_backward(dx, x, **named)),
}
