"""Twins: an object with another's class, state and parameters, and some methods of ours.

A twin shares its original's attributes as they are at that time, tensors and submodules included,
so training one trains the other and `state_dict` has the same keys. Writing an attribute of the
twin leaves the original alone.
"""

from __future__ import annotations

import functools

from torch import nn

from dom2_fast.errors import Dom2Error


class Twin:
    """Base of the mixins: copies and pickles find the class again by original and mixin."""

    def __reduce_ex__(self, protocol):
        state = dict(self.__dict__)
        return _empty, (type(self)._original, type(self)._mixin), state


@functools.cache
def _class(original: type, mixin: type) -> type:
    body = {"_original": original, "_mixin": mixin, "__doc__": mixin.__doc__}
    return type(f"Accelerated{original.__name__}", (mixin, original), body)


def _empty(original: type, mixin: type):
    cls = _class(original, mixin)
    return cls.__new__(cls)


def twin(obj, mixin: type, **attributes):
    """A twin of obj; `attributes` are its own, and no submodules of it.

    Raises Dom2Error for objects without a __dict__ and for what is accelerated already.
    """
    if isinstance(obj, Twin):
        raise Dom2Error(f"{type(obj).__name__} is accelerated already; use it as it is")
    if not hasattr(obj, "__dict__"):
        raise Dom2Error(
            f"can't accelerate {type(obj).__name__}: it has no __dict__ (__slots__?), so no object "
            f"can share its state"
        )
    made = _empty(type(obj), mixin)
    made.__dict__.update(obj.__dict__)
    if isinstance(obj, nn.Module):
        made.__dict__["_modules"] = dict(obj._modules)
    made.__dict__.update(attributes)
    return made
