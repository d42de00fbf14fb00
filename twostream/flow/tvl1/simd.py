"""Explicit SIMD for numba: vectors of 16 float32 lanes, so that speed does not depend on automatic vectorisation.

A kernel walks flat float32 arrays in steps of `LANES`. LLVM maps a vector to what the processor has: one AVX-512
register, two of AVX2, four of SSE or NEON; the lanes' results are the same. Arithmetic (+ - *), comparisons and
negation work on vectors; everything else is a function below. Loads and stores are not checked against the array's end:
arrays carry padding for the last vector of a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import llvmlite
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model
from numba.np.arrayobj import make_array

LANES = 16


def kernel(function: Callable) -> Callable:
    """Compile a function to machine code at its first call, without the GIL, kept on disk for the next process."""
    before, config.CACHE_DIR = config.CACHE_DIR, cache_folder(function)  # type: ignore[attr-defined]
    try:
        return numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before  # type: ignore[attr-defined]


def cache_folder(function: Callable) -> str:
    """Return the folder of a kernel's machine code, named by its sources: numba would miss changes of this file."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in (__file__, function.__code__.co_filename):
        digest.update(Path(source).read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for parent in (os.path.join(home, "twostream"), os.path.join(tempfile.gettempdir(), f"twostream-{os.getuid()}")):
        folder = os.path.join(parent, f"kernels-{digest.hexdigest()[:12]}")
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return tempfile.mkdtemp(prefix="twostream-")


def inlined(function: Callable) -> Callable:
    """Compile a helper into the kernels that call it."""
    return numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)(function)


class _Vector(types.Type):
    def __init__(self, name: str, lane: ir.Type) -> None:
        self.llvm = ir.VectorType(lane, LANES)
        super().__init__(name=f"{name}x{LANES}")


_FLOAT, _INT, _BIT = ir.FloatType(), ir.IntType(32), ir.IntType(1)
floats, ints, bits = _Vector("f32", _FLOAT), _Vector("i32", _INT), _Vector("i1", _BIT)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def _pointer(context, builder, array_type, array, index, lanes):
    data = make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), lanes.as_pointer())


@intrinsic
def load(typing, array, index):
    """16 lanes of a flat float32 array, from `index` on."""

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature.args[0], *arguments, floats.llvm), align=4)

    return floats(array, types.intp), generate


@intrinsic
def store(typing, array, index, value):
    """Write 16 lanes to a flat float32 array, from `index` on."""

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        builder.store(value, _pointer(context, builder, signature.args[0], array, index, floats.llvm), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, floats), generate


@intrinsic
def splat(typing, value):
    """The same float in every lane."""

    def generate(context, builder, signature, arguments):
        lane = context.cast(builder, arguments[0], signature.args[0], types.float32)
        return _broadcast(builder, lane, floats.llvm)

    return floats(value), generate


def _broadcast(builder, lane, vector):
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), lane, ir.Constant(_INT, 0))
    zeros = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


@intrinsic
def ramp(typing):
    """0, 1, 2, ... 15."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(floats.llvm, [float(i) for i in range(LANES)])

    return floats(), generate


@intrinsic
def shifted_in(typing, before, value):
    """`value` moved up by one lane; its first lane is the last of `before`."""

    def generate(context, builder, signature, arguments):
        picks = ir.Constant(ir.VectorType(_INT, LANES), [LANES - 1 + i for i in range(LANES)])
        return builder.shuffle_vector(*arguments, picks)

    return floats(floats, floats), generate


def _interleaving(picks):
    @intrinsic
    def function(typing, a, b):
        def generate(context, builder, signature, arguments):
            return builder.shuffle_vector(*arguments, ir.Constant(ir.VectorType(_INT, LANES), picks))

        return floats(floats, floats), generate

    return function


# a0 b0 a1 b1 ... of the first, and of the last, eight lanes of two vectors.
interleaved_low = _interleaving([i // 2 + LANES * (i % 2) for i in range(LANES)])
interleaved_high = _interleaving([(LANES + i) // 2 + LANES * (i % 2) for i in range(LANES)])


@intrinsic
def lane(typing, value, index):
    """One lane of a vector; `index` is a literal or a loop's counter."""

    def generate(context, builder, signature, arguments):
        return builder.extract_element(arguments[0], builder.trunc(arguments[1], _INT))

    return (types.int32 if value == ints else types.float32)(value, types.intp), generate


@intrinsic
def where(typing, condition, chosen, other):
    """`chosen` in the lanes where the condition holds, else `other`."""

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return chosen(bits, chosen, chosen), generate


@intrinsic
def lesser(typing, a, b):
    """The smaller of two, lane by lane."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return floats(floats, floats), generate


@intrinsic
def greater(typing, a, b):
    """The larger of two, lane by lane."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return floats(floats, floats), generate


def _unary(name):
    @intrinsic
    def function(typing, value):
        def generate(context, builder, signature, arguments):
            form = ir.FunctionType(floats.llvm, [floats.llvm])
            return builder.call(cgutils.get_or_insert_function(builder.module, form, f"{name}.v{LANES}f32"), arguments)

        return floats(floats), generate

    return function


floored = _unary("llvm.floor")
absolute = _unary("llvm.fabs")


@intrinsic
def divided(typing, a, b):
    """a / b, lane by lane."""

    def generate(context, builder, signature, arguments):
        return builder.fdiv(*arguments)

    return floats(floats, floats), generate


@intrinsic
def to_ints(typing, value):
    """Floats, which are whole numbers, as int32."""

    def generate(context, builder, signature, arguments):
        return builder.fptosi(arguments[0], ints.llvm)

    return ints(floats), generate


@intrinsic
def _inverse_root_guess(typing, value):
    def generate(context, builder, signature, arguments):
        whole = builder.bitcast(arguments[0], ints.llvm)
        half = builder.lshr(whole, ir.Constant(ints.llvm, [1] * LANES))
        guess = builder.sub(ir.Constant(ints.llvm, [0x5F3759DF] * LANES), half)
        return builder.bitcast(guess, floats.llvm)

    return floats(floats), generate


@inlined
def inverse_root(value):
    """1 / sqrt(value) to 5e-6 of it: the exponent halved as an integer, then two steps of Newton."""
    guess = _inverse_root_guess(value)
    half = splat(0.5) * value
    guess = guess * (splat(1.5) - half * guess * guess)
    return guess * (splat(1.5) - half * guess * guess)


@inlined
def clamped(value, low, high):
    """`value` between `low` and `high`."""
    return lesser(greater(value, low), high)


def _binary(operation, instruction, result=floats):
    @intrinsic
    def function(typing, a, b):
        def generate(context, builder, signature, arguments):
            return instruction(builder, *arguments)

        return result(floats, floats), generate

    @overload(operation)
    def operate(a, b):
        if a == floats and b == floats:
            return lambda a, b: function(a, b)


_binary(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=("contract",)))
_binary(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=("contract",)))
_binary(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=("contract",)))
_binary(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), bits)
_binary(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), bits)


@intrinsic
def _negated(typing, a):
    def generate(context, builder, signature, arguments):
        return builder.fneg(arguments[0])

    return floats(floats), generate


@overload(operator.neg)
def _negate(a):
    if a == floats:
        return lambda a: _negated(a)


@intrinsic
def any_of(typing, condition):
    """Whether the condition holds in some lane."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(arguments[0], word), ir.Constant(word, 0))

    return types.boolean(bits), generate


@intrinsic
def gather(typing, array, start, index):
    """Lane i is `array[start + index[i]]` of a flat float32 array."""

    def generate(context, builder, signature, arguments):
        array, start, index = arguments
        data = builder.gep(make_array(signature.args[0])(context, builder, array).data, [start])
        result = ir.Constant(floats.llvm, ir.Undefined)
        for i in range(LANES):
            which = ir.Constant(_INT, i)
            place = builder.sext(builder.extract_element(index, which), ir.IntType(64))
            result = builder.insert_element(result, builder.load(builder.gep(data, [place])), which)
        return result

    return floats(array, types.intp, ints), generate


@intrinsic
def ints_add_scaled(typing, rows, stride, columns):
    """rows * stride + columns, in int32; `stride` is one number."""

    def generate(context, builder, signature, arguments):
        rows, stride, columns = arguments
        return builder.add(builder.mul(rows, _broadcast(builder, builder.trunc(stride, _INT), ints.llvm)), columns)

    return ints(ints, types.intp, ints), generate
