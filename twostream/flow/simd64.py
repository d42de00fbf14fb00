"""Kernels whose every rounding is known: vectors of 16 float64 lanes, and nothing fused.

In :mod:`twostream.flow.simd` a product and a sum may become one instruction with one rounding. Here they are two, as in
C compiled for any x86-64, so that the same formulas in the same order give the same bits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numba
from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model
from numba.np.arrayobj import make_array

from twostream.flow import simd
from twostream.flow.simd import LANES, floats

_WIDE = ir.VectorType(ir.DoubleType(), LANES)


def exact_kernel(function: Callable) -> Callable:
    """As :func:`twostream.flow.simd.kernel`, without fusing."""
    before, config.CACHE_DIR = config.CACHE_DIR, simd.cache_folder(function)
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before


def exact_inlined(function: Callable) -> Callable:
    """As :func:`twostream.flow.simd.inlined`, without fusing."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


class _Doubles(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"f64x{LANES}")


doubles = _Doubles()


@register_model(_Doubles)
class _DoublesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _WIDE)


def _pointer(context, builder, array_type, array, index):
    data = make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _WIDE.as_pointer())


@intrinsic
def load64(typing, array, index):
    """16 lanes of a flat float64 array, from `index` on."""

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=8)

    return doubles(array, types.intp), generate


@intrinsic
def store64(typing, array, index, value):
    """Write 16 lanes to a flat float64 array, from `index` on."""

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        builder.store(value, _pointer(context, builder, signature.args[0], array, index), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, doubles), generate


@intrinsic
def splat64(typing, value):
    """The same number in every lane."""

    def generate(context, builder, signature, arguments):
        lane = context.cast(builder, arguments[0], signature.args[0], types.float64)
        nothing = ir.Constant(_WIDE, ir.Undefined)
        first = builder.insert_element(nothing, lane, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

    return doubles(value), generate


@intrinsic
def wide(typing, value):
    """Floats as float64."""

    def generate(context, builder, signature, arguments):
        return builder.fpext(arguments[0], _WIDE)

    return doubles(floats), generate


@intrinsic
def narrow(typing, value):
    """float64 rounded to floats."""

    def generate(context, builder, signature, arguments):
        return builder.fptrunc(arguments[0], floats.llvm)

    return floats(doubles), generate


@intrinsic
def positive64(typing, value):
    """The larger of a value and zero, lane by lane."""

    def generate(context, builder, signature, arguments):
        zero = ir.Constant(_WIDE, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered(">", arguments[0], zero), arguments[0], zero)

    return doubles(doubles), generate


@intrinsic
def product(typing, a, b):
    """a * b of floats, rounded also where a sum follows, which `*` of floats is not."""

    def generate(context, builder, signature, arguments):
        return builder.fmul(*arguments)

    return floats(floats, floats), generate


def _binary(operation, instruction):
    @intrinsic
    def function(typing, a, b):
        def generate(context, builder, signature, arguments):
            return instruction(builder, *arguments)

        return doubles(doubles, doubles), generate

    @overload(operation)
    def operate(a, b):
        if a == doubles and b == doubles:
            return lambda a, b: function(a, b)


_binary(operator.add, lambda builder, a, b: builder.fadd(a, b))
_binary(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_binary(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_binary(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
