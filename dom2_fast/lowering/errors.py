"""The error for a network that a step program can't express."""

from dom2_fast import activations
from dom2_fast.errors import Dom2Error

SUPPORTED = (
    f"Linear, {', '.join(module.__name__ for module in activations.MODULES)}, LayerNorm, "
    "GroupNorm over a row, Dropout and Identity (as modules or functions), v * sigmoid(v), + - * "
    "between values of one width, "
    "scaling by constants or by functions of t, cat, chunk, split and slices along the last "
    "dimension, view, reshape, flatten and unflatten within a row; anything at all on t alone"
)


class LoweringError(Dom2Error):
    """The message names the node, its operation, and what is supported."""
