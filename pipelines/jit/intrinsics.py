"""What numba's Python lacks, as LLVM instructions: calls by address, memory by address, transposing in registers.

Addresses are int64. Nothing is checked: these are for nopython code that knows what lies there. Vectors have a fixed
length, which LLVM maps to the registers that a processor has; it never reorders or contracts the float32 arithmetic.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmix.kernels.compiled import inner

LANES = 16  # floats of a vector
_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _at(builder: ir.IRBuilder, base: ir.Value, offset: ir.Value | int, kind: ir.Type) -> ir.Value:
    """A pointer to a value of this kind, `offset` bytes from the address `base`."""
    offset = ir.Constant(_I64, offset) if isinstance(offset, int) else offset
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


@intrinsic
def call(typingctx, function, arguments):
    """call(address, (a, b, ...)) -> int64: a C function of int64 arguments, without the interpreter's lock.

    In the calling conventions of x86-64 (System V) and AArch64 an int is passed, and returned, as the low half of a
    64-bit register. So is a struct of two ints as one register, and one of four as two: `a | b << 32`.
    An int that is returned must be cut to int32 by the caller.
    """

    def codegen(context, builder, signature, values):
        numbers = [builder.extract_value(values[1], k) for k in range(len(arguments))]
        kind = ir.FunctionType(_I64, [_I64] * len(numbers))
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), numbers)

    if all(types.unliteral(kind) == types.int64 for kind in (function, *arguments)):
        return types.int64(types.int64, types.UniTuple(types.int64, len(arguments))), codegen


@intrinsic
def pointer(typingctx, address):
    """A pointer for numba.carray, of an address."""

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[0], _I8.as_pointer())

    return types.CPointer(types.uint8)(types.int64), codegen


@intrinsic
def take(typingctx, counter):
    """The int64 that an array begins with, which is then one more: to every thread another."""

    def codegen(context, builder, signature, values):
        array = context.make_array(signature.args[0])(context, builder, values[0])
        return builder.atomic_rmw("add", array.data, ir.Constant(_I64, 1), "monotonic")

    return types.int64(counter), codegen


def _transposer(element: ir.Type, size: int):
    """transpose(source, pitch, target, stride) of n x n elements, of `size` bytes each and 16 bytes a row.

    Interleaving row k with row k + n/2, for all k, moves the highest bit of an element's column number to the lowest of
    its row number; so often as the numbers have bits, and rows and columns have changed places.
    """
    n = 16 // size
    row = ir.VectorType(element, n)
    pairs = [[k + side for k in range(half, half + n // 2) for side in (0, n)] for half in (0, n // 2)]
    masks = [ir.Constant(ir.VectorType(_I32, n), pair) for pair in pairs]

    @intrinsic
    def transpose(typingctx, source, pitch, target, stride):
        def codegen(context, builder, signature, values):
            source, pitch, target, stride = values
            places = [[builder.mul(step, ir.Constant(_I64, k)) for k in range(n)] for step in (pitch, stride)]
            rows = [builder.load(_at(builder, source, place, row), align=size) for place in places[0]]
            for _ in range(n.bit_length() - 1):
                halves = zip(rows[: n // 2], rows[n // 2 :], strict=True)
                rows = [builder.shuffle_vector(a, b, mask) for a, b in halves for mask in masks]
            for value, place in zip(rows, places[1], strict=True):
                builder.store(value, _at(builder, target, place, row), align=size)

        return types.void(*[types.int64] * 4), codegen

    return transpose


transpose_4x4_floats = _transposer(_F32, 4)  # (address, bytes between its rows, address of the result, bytes between)
transpose_16x16_bytes = _transposer(_I8, 1)


@intrinsic
def weigh(typingctx, source, pitch, weights, n, target):
    """Writes round(sum_k weights[k] * source[k]) of 3 * LANES columns, as bytes, to target; n >= 1.

    source: n rows of 3 * LANES floats, `pitch` bytes apart. weights: n floats. Halves are rounded up, and the sum is
    clipped to 0..255. The sums stay in registers, which LLVM does not see for itself.
    """
    floats, ints, bytes_ = (ir.VectorType(kind, LANES) for kind in (_F32, _I32, _I8))

    def splat(builder, value):
        empty = ir.Constant(floats, ir.Undefined)
        one = builder.insert_element(empty, value, ir.Constant(_I32, 0))
        return builder.shuffle_vector(one, empty, ir.Constant(ints, [0] * LANES))

    def codegen(context, builder, signature, values):
        source, pitch, weights, n, target = values
        before, taps, after = builder.block, *(builder.append_basic_block(name) for name in ("taps", "weighed"))
        builder.branch(taps)
        builder.position_at_end(taps)
        k, sums = builder.phi(_I64), [builder.phi(floats) for _ in range(3)]
        weight = splat(builder, builder.load(_at(builder, weights, builder.mul(k, ir.Constant(_I64, 4)), _F32)))
        row = builder.add(source, builder.mul(k, pitch))
        pixels = [builder.load(_at(builder, row, 4 * LANES * part, floats), align=4) for part in range(3)]
        added = [builder.fadd(total, builder.fmul(weight, x)) for total, x in zip(sums, pixels, strict=True)]
        following = builder.add(k, ir.Constant(_I64, 1))
        k.add_incoming(ir.Constant(_I64, 0), before)
        k.add_incoming(following, taps)
        for total, new in zip(sums, added, strict=True):
            total.add_incoming(ir.Constant(floats, [0.5] * LANES), before)
            total.add_incoming(new, taps)
        builder.cbranch(builder.icmp_signed("<", following, n), taps, after)
        builder.position_at_end(after)
        for part, total in enumerate(added):
            for sign, limit in ((">", 0.0), ("<", 255.0)):
                bound = ir.Constant(floats, [limit] * LANES)
                total = builder.select(builder.fcmp_ordered(sign, total, bound), total, bound)
            narrow = builder.trunc(builder.fptosi(total, ints), bytes_)
            builder.store(narrow, _at(builder, target, LANES * part, bytes_), align=1)

    return types.void(*[types.int64] * 5), codegen


@inner()
def address(array):
    """Of an array's first element."""
    return np.int64(array.ctypes.data)
