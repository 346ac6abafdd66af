"""The folding rules: operators that take an affine map into their weights, and operators that let a map pass.

Each rule is one function. To add a rule, write the function with its formula and enter it in ``LAYERS`` or ``PASSAGES``;
docs/folding.md shows how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from edgekit.fold.affine import Affine, joined, reshaped
from edgekit.fold.graph import DROPOUTS, Constants, argument, aten, describe, dtype_of, free_axes, is_tensor, sizes
from edgekit.fold.norms import affine_step


class Blocked(Exception):  # an answer of the search, not an error
    """An operator blocks a map: ``code`` is for programs, ``at`` is the operator, the message is for people."""

    def __init__(self, code: str, at: fx.Node, why: str) -> None:
        super().__init__(why)
        self.code, self.at = code, at


class LayerRule(NamedTuple):
    """An operator (x, weight, bias, ...) that is linear in x.

    ``axis`` is the channel axis of x and of the output. ``weight_rank`` is the rank of the weight; None: the rank of x.
    ``outputs(shape, s, groups)`` is the factor of a weight of that shape that scales the output channels by s; ``inputs`` is
    the factor that scales the channels of x. ``bias(W, t, groups)`` is the constant that t per input channel adds to each output
    channel; it holds if ``bordered(node)`` is empty. Otherwise ``bordered`` says why the constant differs between positions.
    """

    axis: int
    outputs: Callable[[tuple[int, ...], Tensor, int], Tensor]
    inputs: Callable[[tuple[int, ...], Tensor, int], Tensor]
    bias: Callable[[Tensor, Tensor, int], Tensor]
    bordered: Callable[[fx.Node], str]
    groups_at: int | None = None
    weight_rank: int | None = None

    def groups(self, node: fx.Node) -> int:
        """The number of channel groups of a node."""
        return 1 if self.groups_at is None else int(argument(node, self.groups_at, 1))


def _conv_outputs(shape: tuple[int, ...], scale: Tensor, groups: int) -> Tensor:
    """Scale the outputs of a convolution or linear layer: W[o, i, ...] -> s[o] W[o, i, ...]."""
    return scale.reshape(-1, *(1,) * (len(shape) - 1))


def _conv_inputs(shape: tuple[int, ...], scale: Tensor, groups: int) -> Tensor:
    """Scale the inputs of a convolution: W[o, i, ...] -> s[j * in/groups + i] W[o, i, ...].

    W has the shape out x in/groups x ...; output o of group j = o // (out/groups) sees the inputs j * in/groups + i.
    """
    out, per_group, *kernel = shape
    spread = scale.reshape(groups, 1, per_group).expand(groups, out // groups, per_group)
    return spread.reshape(out, per_group, *(1,) * len(kernel))


def _conv_bias(weight: Tensor, shift: Tensor, groups: int) -> Tensor:
    """The bias from a constant t per input channel: b'[o] = sum over i and the kernel of W[o, i, ...] t[j * in/groups + i]."""
    return (weight * _conv_inputs(tuple(weight.shape), shift, groups)).flatten(1).sum(1)


def _transposed_outputs(shape: tuple[int, ...], scale: Tensor, groups: int) -> Tensor:
    """Scale the outputs of a transposed convolution: W[i, o, ...] -> s[j * out/groups + o] W[i, o, ...].

    W has the shape in x out/groups x ...; the inputs of group j = i // (in/groups) reach the outputs j * out/groups + o.
    """
    inputs, per_group, *kernel = shape
    spread = scale.reshape(groups, 1, per_group).expand(groups, inputs // groups, per_group)
    return spread.reshape(inputs, per_group, *(1,) * len(kernel))


def _transposed_inputs(shape: tuple[int, ...], scale: Tensor, groups: int) -> Tensor:
    """Scale the inputs of a transposed convolution: W[i, o, ...] -> s[i] W[i, o, ...]."""
    return scale.reshape(-1, *(1,) * (len(shape) - 1))


def _transposed_bias(weight: Tensor, shift: Tensor, groups: int) -> Tensor:
    """The bias from a constant t per input channel: b'[j * out/groups + o] = sum over i of group j of W[i, o] t[i].

    Valid for a kernel of one element.
    """
    inputs, per_group = weight.shape[:2]
    return (weight.reshape(inputs, per_group) * shift[:, None]).reshape(groups, -1, per_group).sum(1).reshape(-1)


def _linear_inputs(shape: tuple[int, ...], scale: Tensor, groups: int) -> Tensor:
    """Scale the inputs of a linear layer: W[o, i] -> W[o, i] s[i]."""
    return scale[None, :]


def _conv_border(node: fx.Node) -> str:
    # conv(x, weight, bias, stride, padding, dilation, groups)
    padding = argument(node, 4, 0)
    if padding == "valid" or not _any(padding):
        return ""
    weight = node.args[1]
    if padding == "same" and isinstance(weight, fx.Node) and set(sizes(weight)[2:]) == {1}:
        return ""
    return "pads its input with zeros, which a shift of the input would have to leave alone"


def centred(node: fx.Node) -> bool:
    """Whether a convolution keeps the shape, with each output position at the middle of its kernel window."""
    # conv(x, weight, bias, stride, padding, dilation, groups)
    source, weight = node.args[0], node.args[1]
    if layer_of(node) is not _CONVOLUTION or not isinstance(weight, fx.Node) or not isinstance(source, fx.Node):
        return False
    kernel = sizes(weight)[2:]
    if sizes(source) != sizes(node) or not _all_are(argument(node, 3, 1), 1) or any(size % 2 == 0 for size in kernel):
        return False
    padding, dilation = argument(node, 4, 0), _each(argument(node, 5, 1), len(kernel))
    middle = [step * (size - 1) // 2 for step, size in zip(dilation, kernel, strict=True)]
    return padding == "same" or (padding != "valid" and list(_each(padding, len(kernel))) == middle)


def centre(shape: tuple[int, ...], scale: Tensor) -> Tensor:
    """The weight (out x in/groups x ...) of a convolution that computes s x: s[o] in the middle of kernel [o, o]."""
    out, per_group, *kernel = shape
    kernels = torch.zeros(shape, dtype=torch.float64)
    channels = torch.arange(out)
    middle = [torch.tensor(size // 2) for size in kernel]
    return kernels.index_put((channels, channels % per_group, *middle), scale)


def _transposed_border(node: fx.Node) -> str:
    # conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation)
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    plain = set(sizes(weight)[2:]) == {1} and _all_are(argument(node, 3, 1), 1)
    if plain and not _any(argument(node, 4, 0)) and not _any(argument(node, 5, 0)):
        return ""
    return "spreads its input over overlapping places, on which a shift of the input does not act evenly"


def _linear_border(node: fx.Node) -> str:
    return ""


_CONVOLUTION = LayerRule(1, _conv_outputs, _conv_inputs, _conv_bias, _conv_border, groups_at=6)
_TRANSPOSED = LayerRule(1, _transposed_outputs, _transposed_inputs, _transposed_bias, _transposed_border, groups_at=6)
LAYERS: Mapping[Any, LayerRule] = {
    **{
        getattr(getattr(aten, f"conv{rank}d"), overload): _CONVOLUTION
        for rank in (1, 2, 3)
        for overload in ("default", "padding")
    },
    aten.conv_transpose1d.default: _TRANSPOSED,
    aten.conv_transpose2d.input: _TRANSPOSED,
    aten.conv_transpose3d.input: _TRANSPOSED,
    aten.linear.default: LayerRule(
        -1, _conv_outputs, _linear_inputs, lambda weight, shift, groups: weight @ shift, _linear_border, weight_rank=2
    ),
}


def layer_of(node: fx.Node) -> LayerRule | None:
    """The rule of an operator with a weight; None for any other operator, and for an input without a batch axis."""
    layer = LAYERS.get(node.target) if node.op == "call_function" else None
    if layer is None or not all(is_tensor(value) for value in node.args[:2]):
        return None
    source, weight = (len(sizes(value)) for value in node.args[:2] if isinstance(value, fx.Node))
    return layer if weight == (layer.weight_rank or source) else None


Shares = list[tuple[fx.Node, Affine]]
"""Inputs with the map that each must take for the output to be mapped."""


class Passage(NamedTuple):
    """An operator that a map can pass.

    ``before(node, A)`` lists alternative maps of the inputs that give A(node); the search takes the first that works.
    ``after(node, maps)`` is the map of the output for mapped inputs. Both raise Blocked.
    """

    before: Callable[[fx.Node, Affine, Constants], list[Shares]]
    after: Callable[[fx.Node, Mapping[fx.Node, Affine], Constants], Affine]


def _unchanged(check: Callable[[fx.Node, Affine], None]) -> Passage:
    """The passage of an f with f(A(x)) = A(f(x)), with the same numbers in A, for the maps that ``check`` accepts."""

    def before(node: fx.Node, affine: Affine, constants: Constants) -> list[Shares]:
        check(node, affine)
        return [[(_first(node), affine)]]

    def after(node: fx.Node, maps: Mapping[fx.Node, Affine], constants: Constants) -> Affine:
        affine = _only(node, maps)
        check(node, affine)
        return affine

    return Passage(before, after)


def _same_values(node: fx.Node, affine: Affine) -> None:
    """Check an operator with f(x) = x: inactive dropout, copies, casts to the same dtype."""
    if node.target in DROPOUTS and node.args[2]:
        raise Blocked("training", node, f"{describe(node)} is active")
    if dtype_of(node) != dtype_of(_first(node)):
        raise Blocked("dtype", node, f"{describe(node)} changes the dtype")


def _homogeneous(node: fx.Node, affine: Affine) -> None:
    """Check ReLU and leaky ReLU: relu(s x) = s relu(x) for s >= 0."""
    if affine.shifts:
        raise Blocked("nonlinear", node, f"{describe(node)} bends at zero, and a shift moves it there")
    if not affine.never_negative:
        raise Blocked("nonlinear", node, f"{describe(node)} treats negative values otherwise, and a scale is negative")


def _maximum(node: fx.Node, affine: Affine) -> None:
    """Check max pooling: max(s x + t) = s max(x) + t for s >= 0, within a channel."""
    _not_along(node, affine, _window(node))
    if not affine.never_negative:
        raise Blocked("nonlinear", node, f"{describe(node)} takes a maximum, and a scale is negative")


def _average(node: fx.Node, affine: Affine) -> None:
    """Check average pooling: mean(s x + t) = s mean(x) + t, if padding does not count as values."""
    # avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    _not_along(node, affine, _window(node))
    counted = _any(argument(node, 3, 0)) and argument(node, 5, True)
    if affine.shifts and argument(node, 6) is not None:
        raise Blocked(
            "border", node, f"{describe(node)} divides by another number than it adds up, which a shift does not survive"
        )
    if affine.shifts and counted:
        raise Blocked("border", node, f"{describe(node)} counts zeros from its padding, which a shift would move")


def _spatial(node: fx.Node, affine: Affine) -> None:
    """Check adaptive averages and interpolation, whose weights sum to one for every output element."""
    _not_along(node, affine, _window(node))


def _window(node: fx.Node) -> list[int]:
    """The axes along which a pool such as ``max_pool2d`` works: the last ones, as many as the operator's name says."""
    rank, (count,) = len(sizes(node)), re.findall(r"(\d)d$", str(node.target).split(".")[1])
    return list(range(rank - int(count), rank))


def _padded(node: fx.Node, affine: Affine) -> None:
    """Check padding: pad(s x + t) = s pad(x) + t if the border repeats x; a border of zeros needs t = 0."""
    # pad(x, (last axis before, after, last but one before, ...), mode, value)
    amounts, rank = list(argument(node, 1)), len(sizes(node))
    _not_along(node, affine, [rank - 1 - index // 2 for index, amount in enumerate(amounts) if amount])
    if argument(node, 2, "constant") == "constant" and (affine.shifts or argument(node, 3) not in (None, 0)):
        raise Blocked("border", node, f"{describe(node)} adds a constant border, which a shift would move")


def _rearranged(move: Callable[[fx.Node, Tensor], Tensor], back: Callable[[fx.Node, Tensor], Tensor]) -> Passage:
    """The passage of an operator that rearranges values: the map is rearranged in the same way."""

    def before(node: fx.Node, affine: Affine, constants: Constants) -> list[Shares]:
        return [[(_first(node), _not_free(node, _first(node), Affine(*(back(node, part) for part in affine))))]]

    def after(node: fx.Node, maps: Mapping[fx.Node, Affine], constants: Constants) -> Affine:
        return _not_free(node, node, Affine(*(move(node, part) for part in _only(node, maps))))

    return Passage(before, after)


def _permutation(node: fx.Node) -> list[int]:
    """For each axis of the output, its axis in the input, found by running the operator on a meta tensor."""
    rank = len(sizes(node))
    assert callable(node.target)
    return [size - 2 for size in node.target(torch.empty(tuple(range(2, 2 + rank)), device="meta"), *node.args[1:]).shape]


def _averaged_axes(node: fx.Node) -> list[int]:
    rank = len(sizes(_first(node)))
    return sorted(axis % rank for axis in argument(node, 1) or range(rank))


def _mean_move(node: fx.Node, part: Tensor) -> Tensor:
    """Move a map behind a mean: mean(s x + t) = s mean(x) + t over axes on which s and t do not depend."""
    axes = _averaged_axes(node)
    if any(part.shape[axis] > 1 for axis in axes):
        raise Blocked("another-axis", node, f"{describe(node)} averages over the normalised axis")
    return part if argument(node, 2, False) else part.reshape([size for axis, size in enumerate(part.shape) if axis not in axes])


def _mean_back(node: fx.Node, part: Tensor) -> Tensor:
    if not argument(node, 2, False):
        for axis in _averaged_axes(node):
            part = part.unsqueeze(axis)
    if any(part.shape[axis] > 1 for axis in _averaged_axes(node)):
        raise Blocked("another-axis", node, f"{describe(node)} averages over the normalised axis")
    return part


def _cat_before(node: fx.Node, affine: Affine, constants: Constants) -> list[Shares]:
    """Move a map before a concatenation: A(cat(x, y)) = cat(A1(x), A2(y))."""
    pieces, axis, lengths = _pieces(node)
    return [list(zip(pieces, affine.split(axis, lengths), strict=True))]


def _cat_after(node: fx.Node, maps: Mapping[fx.Node, Affine], constants: Constants) -> Affine:
    """Move maps behind a concatenation: cat(A(x), y) = (A, identity)(cat(x, y))."""
    pieces, axis, lengths = _pieces(node)
    rank = len(sizes(node))
    return joined([maps.get(piece, Affine.identity(rank)) for piece in pieces], axis, lengths)


def _pieces(node: fx.Node) -> tuple[list[fx.Node], int, list[int]]:
    pieces = node.args[0]
    assert isinstance(pieces, (list, tuple))
    nodes = [piece for piece in pieces if isinstance(piece, fx.Node)]
    axis = int(argument(node, 1, 0)) % len(sizes(node))
    if axis in free_axes(node):
        raise Blocked("another-axis", node, f"{describe(node)} joins along an axis of unknown size")
    return nodes, axis, [sizes(piece)[axis] for piece in nodes]


def _sum_before(node: fx.Node, affine: Affine, constants: Constants) -> list[Shares]:
    """Move a map before a sum: s (x + y) + t = (s x + t) + s y; both take the scale, either takes the shift."""
    first, second = _operands(node)
    sign = -1.0 if node.target is aten.sub.Tensor else 1.0
    scaled = affine.without_shift()
    return [[(first, affine), (second, scaled)], [(first, scaled), (second, affine._replace(shift=sign * affine.shift))]]


def _sum_after(node: fx.Node, maps: Mapping[fx.Node, Affine], constants: Constants) -> Affine:
    """Move maps behind a sum: (s x + t) + (s y + u) = s (x + y) + (t + u), if the scales are equal."""
    nothing = Affine.identity(len(sizes(node)))
    first, second = (maps.get(operand, nothing) for operand in _operands(node))
    if first.scale.shape != second.scale.shape or not bool((first.scale == second.scale).all()):
        raise Blocked("addition", node, f"{describe(node)} adds another value, which is not scaled")
    sign = -1.0 if node.target is aten.sub.Tensor else 1.0
    return Affine.of(first.scale, first.shift + sign * second.shift)


def _product_before(node: fx.Node, affine: Affine, constants: Constants) -> list[Shares]:
    """Move a scale before a product: s (x y) = (s x) y = x (s y)."""
    if affine.shifts:
        raise Blocked("product", node, f"{describe(node)} multiplies two values, and neither can take a shift")
    return [[(operand, affine)] for operand in _operands(node)]


def _product_after(node: fx.Node, maps: Mapping[fx.Node, Affine], constants: Constants) -> Affine:
    """Move scales behind a product: (s x) (r y) = (s r) (x y)."""
    if any(affine.shifts for affine in maps.values()):
        raise Blocked("product", node, f"{describe(node)} multiplies with another value, and so would a shift be")
    nothing = Affine.identity(len(sizes(node)))
    first, second = (maps.get(operand, nothing) for operand in _operands(node))
    return Affine.of(first.scale * second.scale, nothing.shift)


def _step_before(node: fx.Node, affine: Affine, constants: Constants) -> list[Shares]:
    """Move a map before an affine step: s (c x + d) + t = c (s x + t') + d with t' = (s d + t - d) / c."""
    step = affine_step(node, constants)
    assert step is not None
    shift = affine.scale * step.map.shift + affine.shift - step.map.shift
    if bool((step.map.scale == 0).any()):
        raise Blocked("zero", node, f"{describe(node)} multiplies by zero")
    return [[(step.variable, Affine.of(affine.scale, shift / step.map.scale))]]


def _step_after(node: fx.Node, maps: Mapping[fx.Node, Affine], constants: Constants) -> Affine:
    """Move a map behind an affine step: c (s x + t) + d = s (c x + d) + (c t + d - s d)."""
    step = affine_step(node, constants)
    assert step is not None
    (affine,) = maps.values()
    return Affine.of(affine.scale, step.map.scale * affine.shift + step.map.shift - affine.scale * step.map.shift)


_STEP = Passage(_step_before, _step_after)
_RESHAPED = _rearranged(
    lambda node, part: reshaped(part, sizes(_first(node)), sizes(node)),
    lambda node, part: reshaped(part, sizes(node), sizes(_first(node))),
)
_PERMUTED = _rearranged(
    lambda node, part: part.permute(_permutation(node)),
    lambda node, part: part.permute([_permutation(node).index(axis) for axis in range(part.dim())]),
)


def _passages(names: str, passage: Passage) -> dict[Any, Passage]:
    passages = {}
    for name in names.split():
        packet, _, overload = name.partition(".")
        passages[getattr(getattr(aten, packet), overload)] = passage
    return passages


PASSAGES: Mapping[Any, Passage] = {
    **_passages(
        "dropout.default feature_dropout.default alpha_dropout.default clone.default contiguous.default detach.default "
        "to.dtype alias.default",
        _unchanged(_same_values),
    ),
    **_passages("relu.default leaky_relu.default", _unchanged(_homogeneous)),
    **_passages("max_pool1d.default max_pool2d.default max_pool3d.default", _unchanged(_maximum)),
    **_passages("avg_pool1d.default avg_pool2d.default avg_pool3d.default", _unchanged(_average)),
    **_passages(
        "adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_avg_pool3d.default upsample_nearest1d.vec "
        "upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec upsample_bilinear2d.vec upsample_trilinear3d.vec",
        _unchanged(_spatial),
    ),
    **_passages("pad.default", _unchanged(_padded)),
    **_passages(
        "reshape.default view.default flatten.using_ints unflatten.int squeeze.dim squeeze.dims squeeze.default "
        "unsqueeze.default reshape_as.default view_as.default",
        _RESHAPED,
    ),
    **_passages(
        "permute.default transpose.int swapaxes.default swapdims.default mT.default movedim.intlist movedim.int", _PERMUTED
    ),
    **_passages("mean.dim", _rearranged(_mean_move, _mean_back)),
    **_passages("cat.default concat.default", Passage(_cat_before, _cat_after)),
    **_passages("add.Tensor sub.Tensor", Passage(_sum_before, _sum_after)),
    **_passages("mul.Tensor", Passage(_product_before, _product_after)),
}


def passage_of(node: fx.Node, constants: Constants) -> Passage | None:
    """The passage of ``node``; None if no map can pass the node."""
    if node.op != "call_function" or not is_tensor(node):
        return None
    step = affine_step(node, constants)
    return _STEP if step is not None and step.map.finite else PASSAGES.get(node.target)


def _first(node: fx.Node) -> fx.Node:
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def _only(node: fx.Node, maps: Mapping[fx.Node, Affine]) -> Affine:
    if set(maps) != {_first(node)}:
        raise Blocked("unknown", node, f"{describe(node)} uses the normalised value otherwise than as its input")
    return maps[_first(node)]


def _operands(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The operands of a sum or product; raises Blocked unless they are two different values of one rank and dtype."""
    values = node.args
    if node.kwargs or len(values) != 2 or not all(is_tensor(value) for value in values):
        raise Blocked("unknown", node, f"{describe(node)} stands between")
    first, second = values
    assert isinstance(first, fx.Node)
    assert isinstance(second, fx.Node)
    if first is second or not len(sizes(first)) == len(sizes(second)) == len(sizes(node)):
        raise Blocked("unknown", node, f"{describe(node)} stands between, and its operands are not two values of one rank")
    if dtype_of(first) != dtype_of(node) or dtype_of(second) != dtype_of(node):
        raise Blocked("dtype", node, f"{describe(node)} changes the dtype")
    return first, second


def _not_along(node: fx.Node, affine: Affine, axes: Any) -> None:
    crossed = set(axes) & set(affine.axes)
    if crossed:
        raise Blocked("another-axis", node, f"{describe(node)} mixes values along the normalised axis {min(crossed)}")


def _not_free(node: fx.Node, value: fx.Node, affine: Affine) -> Affine:
    """``affine``; raises Blocked if it depends on an axis of unknown size."""
    if set(affine.axes) & free_axes(value):
        raise Blocked("another-axis", node, f"{describe(node)} mixes the normalised axis with one of unknown size")
    return affine


def _any(value: Any) -> bool:
    return any(value) if isinstance(value, (list, tuple)) else bool(value)


def _each(value: Any, rank: int) -> Any:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * rank if len(values) == 1 else values


def _all_are(value: Any, number: int) -> bool:
    return all(item == number for item in value) if isinstance(value, (list, tuple)) else value == number
