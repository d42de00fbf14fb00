"""Explicit SIMD for numba: vectors of 16 float32 lanes, so that speed does not depend on automatic vectorisation.

A kernel walks flat float32 arrays in steps of `LANES`. LLVM maps a vector to what the processor has: one AVX-512
register, two of AVX2, four of SSE or NEON; the lanes' results are the same. Arithmetic (+ - *), comparisons and
negation work on vectors; everything else is a function below. Loads and stores are not checked against the array's end:
arrays carry padding for the last vector of a row.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import operator
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.caching import _CacheLocator
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model
from numba.np.arrayobj import make_array

LANES = 16
_KEPT_DAYS = 30  # machine code that no process has used for so long is removed


def kernel(function: Callable) -> Callable:
    """Compile a function to machine code at its first call, without the GIL, kept on disk for the next process."""
    before = config.CACHE_LOCATOR_CLASSES  # type: ignore[attr-defined]
    try:
        config.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelLocator.__name__}"  # type: ignore[attr-defined]
        return numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")(function)
    finally:
        config.CACHE_LOCATOR_CLASSES = before  # type: ignore[attr-defined]


class KernelLocator(_CacheLocator):
    """Numba's way to the machine code of a kernel: a folder named by content, not by the path of the sources.

    Numba's own locators name it by path, so every clone and every temporary workspace of DVC would compile again. The
    processor is part of numba's key inside the folder.
    """

    def __init__(self, function: Callable, source: str) -> None:
        self._folder = cache_folder(source)
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Callable, py_file: str) -> KernelLocator:
        return cls(py_func, py_file)

    def get_cache_path(self) -> str:
        return self._folder

    def get_source_stamp(self) -> str:
        return ""  # the folder's name holds the sources

    def get_disambiguator(self) -> str:
        return str(self._line)


@functools.cache
def cache_folder(source: str) -> str:
    """Return the folder of the machine code of a module's kernels, named by its content and that of this module.

    When a new one is made, those that no process has used for `_KEPT_DAYS` are removed.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for file in (__file__, source):
        digest.update(Path(file).read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for parent in (os.path.join(home, "twostream"), os.path.join(tempfile.gettempdir(), f"twostream-{os.getuid()}")):
        folder = os.path.join(parent, f"kernels-{digest.hexdigest()[:12]}")
        with contextlib.suppress(OSError):
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
                _remove_unused(parent)
            os.utime(folder)  # it is in use
            # Machine code runs when it is loaded: never that of another user.
            if os.access(folder, os.W_OK) and os.stat(parent).st_uid == os.getuid():
                return folder
    return tempfile.mkdtemp(prefix="twostream-")


def _remove_unused(parent: str) -> None:
    for folder in Path(parent).glob("kernels-*"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            if time.time() - folder.stat().st_mtime > _KEPT_DAYS * 86400:
                shutil.rmtree(folder, ignore_errors=True)


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


def _operation(result, takes, instruction):
    """Return a function of vectors whose body is one expression over LLVM's instructions.

    Args:
        result: type of the result.
        takes: types of the arguments, one to three.
        instruction: from a builder and the arguments to the result.
    """
    signature = result(*takes)

    def generate(context, builder, signature, arguments):
        return instruction(builder, *arguments)

    def of_one(typing, a):
        return signature, generate

    def of_two(typing, a, b):
        return signature, generate

    return intrinsic(of_one if len(takes) == 1 else of_two)


def _shuffled(picks):
    indices = ir.Constant(ir.VectorType(_INT, LANES), picks)
    return _operation(floats, (floats, floats), lambda builder, a, b: builder.shuffle_vector(a, b, indices))


# shifted_in(before, value): `value` moved up by one lane; its first lane is the last of `before`.
shifted_in = _shuffled([LANES - 1 + i for i in range(LANES)])
# a0 b0 a1 b1 ... of the first, and of the last, eight lanes of two vectors.
interleaved_low = _shuffled([i // 2 + LANES * (i % 2) for i in range(LANES)])
interleaved_high = _shuffled([(LANES + i) // 2 + LANES * (i % 2) for i in range(LANES)])


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


def _compared(sign):
    return lambda builder, a, b: builder.fcmp_ordered(sign, a, b)


def _chosen(sign):
    return lambda builder, a, b: builder.select(builder.fcmp_ordered(sign, a, b), a, b)


def _called(name):
    def instruction(builder, value):
        form = ir.FunctionType(floats.llvm, [floats.llvm])
        return builder.call(cgutils.get_or_insert_function(builder.module, form, f"{name}.v{LANES}f32"), [value])

    return instruction


def _root_guess(builder, value):
    half = builder.lshr(builder.bitcast(value, ints.llvm), ir.Constant(ints.llvm, [1] * LANES))
    guess = builder.sub(ir.Constant(ints.llvm, [0x5F3759DF] * LANES), half)
    return builder.bitcast(guess, floats.llvm)


lesser = _operation(floats, (floats, floats), _chosen("<"))
greater = _operation(floats, (floats, floats), _chosen(">"))
floored = _operation(floats, (floats,), _called("llvm.floor"))
absolute = _operation(floats, (floats,), _called("llvm.fabs"))
divided = _operation(floats, (floats, floats), lambda builder, a, b: builder.fdiv(a, b))
# The floats must be whole numbers.
to_ints = _operation(ints, (floats,), lambda builder, value: builder.fptosi(value, ints.llvm))
_inverse_root_guess = _operation(floats, (floats,), _root_guess)


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


def _operator(operation, instruction, result=floats):
    """Let `a + b` and the like work on vectors of floats."""
    function = _operation(result, (floats, floats), instruction)

    @overload(operation)
    def operate(a, b):
        if a == floats and b == floats:
            return lambda a, b: function(a, b)


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=("contract",)))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=("contract",)))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=("contract",)))
_operator(operator.lt, _compared("<"), bits)
_operator(operator.gt, _compared(">"), bits)

_negated = _operation(floats, (floats,), lambda builder, a: builder.fneg(a))


@overload(operator.neg)
def _negate(a):
    if a == floats:
        return lambda a: _negated(a)


def _any(builder, condition):
    word = ir.IntType(LANES)
    return builder.icmp_unsigned("!=", builder.bitcast(condition, word), ir.Constant(word, 0))


any_of = _operation(types.boolean, (bits,), _any)


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
