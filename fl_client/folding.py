"""Folding batch normalisation into the convolutions before it: the same function, fewer passes.

In evaluation mode batch normalisation is an affine map of each channel, so it can be multiplied
into the weights of the convolution whose output it takes. That saves about a third of the forward
pass of a small network on a CPU.
"""

from __future__ import annotations

import copy

from timm.layers.conv2d_same import Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_FOLDABLE = (nn.Conv2d, Conv2dSame)  # exactly these: others standardise their weights as they go


class LayerTracer(fx.Tracer):
    """Follows a model down to its convolutions and normalisations, and not into them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = isinstance(m, (nn.Conv2d, nn.BatchNorm2d))
        return leaf or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy of a model with its batch normalisation folded away.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Left as it is.

    Returns
    -------
    torch.nn.Module
        Gives the same output but for rounding. A model that cannot be traced, or has nothing to
        fold, as most transformers, is returned itself. Weights that stay are shared, not copied.
    """
    try:
        pairs = _pairs(model)
    except Exception:  # tracing follows Python code of any kind; not being able to is no fault
        return model
    if not pairs:
        return model
    folded = sharing_copy(model)
    for conv_name, norm_name in pairs:
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,  # type: ignore[arg-type]
            norm.running_var,  # type: ignore[arg-type]
            norm.eps,
            norm.weight,
            norm.bias,
        )
        # timm's layers carry their activation along
        activation = getattr(norm, "act", None) or nn.Identity()
        parent, _, name = norm_name.rpartition(".")
        setattr(folded.get_submodule(parent), name, activation)
    return folded


def sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose parts can be replaced; its weights are the model's own."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions whose output goes to one batch normalisation only."""
    graph = LayerTracer().trace(model)
    modules = dict(model.named_modules())
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    found = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        names = (str(before.target), str(node.target))
        norm = modules[names[1]]
        once = all(called.count(name) == 1 for name in names)
        fixed = isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
        if once and fixed and type(modules[names[0]]) in _FOLDABLE:
            found.append(names)
    return found
