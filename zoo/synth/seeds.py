"""Draws random numbers as a function of seed and position: no state; the same numbers eager, compiled, in any order.

A 32-bit integer hash of (seed, stream, position) gives uniform bits; XLA turns it into a handful of vector
instructions that fuse with whatever uses the number, where its own generators fill a buffer first.
"""

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any
GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: successive multiples never crowd


def fold(seed: Tensor, stream: int) -> Tensor:
    """Returns a new seed for one use of a seed.

    Args:
        seed: an int, an integer tensor of any shape (all its entries count), or the result of `fold`.
        stream: number of the use; each piece that draws has its own.

    Returns:
        () uint32.
    """
    words = ops.reshape(ops.cast(ops.convert_to_tensor(seed), "uint32"), (-1,))
    state = _scalar(GOLDEN + stream)
    for number in range(words.shape[0]):
        state = _mix((state ^ words[number]) * _scalar(GOLDEN) + _scalar(number + 1))
    return state


def bits(seed: Tensor, shape: Sequence[int], stream: int = 0) -> Tensor:
    """Draws uniform 32-bit integers, `shape` uint32."""
    size = math.prod(shape)
    positions = ops.cast(ops.arange(size, dtype="int32"), "uint32")
    return ops.reshape(_mix((positions + _scalar(1)) * _scalar(GOLDEN) + fold(seed, stream)), tuple(shape))


def uniform(seed: Tensor, shape: Sequence[int], stream: int = 0, *, low: Tensor = 0.0, high: Tensor = 1.0) -> Tensor:
    """Draws uniform numbers between two bounds, never exactly on them for 0 and 1.

    Args:
        seed: as `fold` takes it.
        shape: of the result.
        stream: as `fold` takes it.
        low: lower bound, a number or a tensor that broadcasts.
        high: upper bound.

    Returns:
        `shape` float32.
    """
    # 23 bits plus a half: the float32 nearest to 1 is not 1, so that a logarithm of 1 - u stays finite.
    unit = (ops.cast(ops.right_shift(bits(seed, shape, stream), _scalar(9)), "float32") + 0.5) * (2.0**-23)
    return low + (high - low) * unit


def normal(seed: Tensor, shape: Sequence[int], stream: int = 0) -> Tensor:
    """Draws standard normal numbers, `shape` float32, |x| < 5.3."""
    return math.sqrt(2) * _erfinv(uniform(seed, shape, stream, low=-1.0, high=1.0))


def _scalar(value: int) -> Tensor:
    return ops.convert_to_tensor(value & 0xFFFFFFFF, dtype="uint32")


def _mix(x: Tensor) -> Tensor:
    """Mixes 32 bits; C. Wellons' lowbias32 (bias 0.17), github.com/skeeto/hash-prospector."""
    x = (x ^ ops.right_shift(x, _scalar(16))) * _scalar(0x7FEB352D)
    x = (x ^ ops.right_shift(x, _scalar(15))) * _scalar(0x846CA68B)
    return x ^ ops.right_shift(x, _scalar(16))


_CENTRE = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
           -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
_TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
         0.00943887047, 1.00167406, 2.83297682)  # fmt: skip


def _erfinv(x: Tensor) -> Tensor:
    """Inverts the error function to 1e-6: M. Giles, GPU Computing Gems 2, 2012 (single-precision polynomials)."""
    w = -ops.log((1.0 - x) * (1.0 + x))
    return x * ops.where(w < 5.0, _polynomial(_CENTRE, w - 2.5), _polynomial(_TAIL, ops.sqrt(w) - 3.0))


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    value = ops.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
