"""Convolutions that oneDNN computes together with the activation after them, on a CPU.

The activation otherwise reads and writes every value once more, which in a small network takes as
long as the convolutions themselves. Values stay the same to the bit: the product is rounded first,
and the activation clips it.
"""

from __future__ import annotations

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, fx, nn

from fl_client.folding import LayerTracer, sharing_copy

_KINDS = (nn.Conv2d, Conv2dSame)  # exactly these: others compute their weights as they go
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}
_TOLERANCE = 1e-4  # of the largest feature; rounding is a hundred times smaller


class FusedConv(nn.Module):
    """A convolution with its activation in one call, for inference.

    Parameters
    ----------
    conv : torch.nn.Conv2d
        Its weights are shared, not copied.
    activation : torch.nn.Module
        One of those that clip: identity, ReLU or ReLU6.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self._same = isinstance(conv, Conv2dSame)
        self._padding = [0, 0] if self._same else [int(p) for p in conv.padding]
        self._how = list(conv.stride), list(conv.dilation), conv.groups
        self._activation = _ACTIVATIONS[type(activation)]

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve float32 ``[k, c, h, w]``, channels last."""
        conv = self.conv
        if self._same:
            inputs = pad_same(inputs, list(conv.kernel_size), *self._how[:2])
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            inputs, conv.weight, conv.bias, self._padding, *self._how, *self._activation, ""
        )
        return found


def fuse(model: nn.Module, size: int) -> nn.Module:
    """Return a copy of a model with its convolutions and activations fused.

    Parameters
    ----------
    model : torch.nn.Module
        On the CPU, in evaluation mode, float32, best from `fl_client.folding.fold_batch_norm`.
    size : int
        Height and width of its images: the copy must answer as the model does on one of them.

    Returns
    -------
    torch.nn.Module
        Gives the same output. Where oneDNN, or this call of PyTorch's for it, is not there, or
        the model cannot be traced, the model itself.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return model
    try:
        fused = _fused(model)
        probe = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
        with torch.inference_mode():
            expected, found = model(probe), fused(probe)
        same = float((found - expected).abs().max()) <= _TOLERANCE * float(expected.abs().max())
    except Exception:  # tracing follows Python code of any kind, and the call is PyTorch's own
        return model
    return fused if same else model


def _fused(model: nn.Module) -> nn.Module:
    graph = LayerTracer().trace(model)
    modules = dict(model.named_modules())
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    fused = sharing_copy(model)
    for node in graph.nodes:
        if node.op != "call_module" or type(modules[str(node.target)]) not in _KINDS:
            continue
        name, after = str(node.target), _activation_after(node, modules, called)
        conv = modules[name]
        assert isinstance(conv, nn.Conv2d)
        if called.count(name) > 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        _put(fused, name, FusedConv(conv, modules[after] if after else nn.Identity()))
        if after:
            _put(fused, after, nn.Identity())
    return fused


def _activation_after(
    node: fx.Node, modules: dict[str, nn.Module], called: list[str]
) -> str | None:
    """Name the activation that a convolution's output goes to, and to nothing else."""
    while len(node.users) == 1:
        (node,) = node.users
        if node.op != "call_module":
            return None
        name = str(node.target)
        if type(modules[name]) not in _ACTIVATIONS or called.count(name) > 1:
            return None
        if type(modules[name]) is not nn.Identity:
            return name
    return None


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
