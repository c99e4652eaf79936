"""A module while it is traced: what its forward writes to attributes, and functions held there.

And the tracer itself, which knows that every input has as many rows.
"""

from __future__ import annotations

import functools
import operator
import types
from contextlib import contextmanager

from torch import fx, nn

from dom2_fast.lowering import host


class Tracer(fx.Tracer):
    """torch.fx's tracer, with buffers and conditions as lowering needs them."""

    proxy_buffer_attributes = True  # else arithmetic on a buffer is frozen at its present value

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A branch or an assert on equal numbers of rows of two inputs is taken; others raise."""
        node = obj.node
        if node.target is operator.eq and all(_is_rows(a) for a in node.args):
            self.graph.erase_node(node)
            return True
        return super().to_bool(obj)


def _is_rows(node) -> bool:
    """Is it an input's size(0) or shape[0]?"""
    if not isinstance(node, fx.Node):
        return False
    source, *rest = node.args
    if node.target is operator.getitem and source.target is getattr:
        source, *rest = (source.args[0], node.args[1]) if source.args[1] == "shape" else (source,)
    elif node.target != "size":
        return False
    return source.op == "placeholder" and rest == [0]


@contextmanager
def attributes_kept(module: nn.Module):
    """Takes back what a forward writes to attributes of its module or of a submodule."""
    before = [(m, dict(m.__dict__)) for m in module.modules()]
    try:
        yield
    finally:
        for m, held in before:
            for name in m.__dict__.keys() - held.keys():
                del m.__dict__[name]
            m.__dict__.update(held)


@contextmanager
def functions_of_t_whole(module: nn.Module, tracer: fx.Tracer):
    """Records a call of a function that is an attribute, such as SfBC's marginal_prob_std, as one
    node, where it can't be traced and takes t alone: it runs in PyTorch then, whatever it does.
    """
    kinds = (types.FunctionType, types.MethodType, functools.partial)
    with attributes_kept(module):
        for m in module.modules():
            for name, value in m.__dict__.items():
                if isinstance(value, kinds):
                    m.__dict__[name] = functools.partial(_traced_or_whole, tracer, value)
        yield


def _traced_or_whole(tracer: fx.Tracer, fn, *args, **kwargs):
    last = next(reversed(tracer.graph.nodes), None)
    try:
        return fn(*args, **kwargs)
    except Exception:
        if not _takes_t_alone(tracer.graph, args, kwargs):
            raise
        for node in reversed(tracer.graph.nodes):
            if node is last:
                break
            tracer.graph.erase_node(node)
        return tracer.create_proxy("call_function", fn, args, kwargs, name="function_of_t")


def _takes_t_alone(graph: fx.Graph, args, kwargs) -> bool:
    """Do the arguments follow from the second input, which is t, and no other?"""
    todo = [v.node for v in host._leaves((args, kwargs)) if isinstance(v, fx.Proxy)]
    seen = set()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo.extend(node.all_input_nodes)
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    return [n for n in inputs if n in seen] == inputs[1:2]
