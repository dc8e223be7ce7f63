"""What Numba itself has no words for: eight bytes at any place of an array, and arrays without an owner."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_INT64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Where the element `index` of an array lies, as a place of 64 bits."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _INT64.as_pointer())


def _load_eight(_typing: Any, array: Any, index: Any) -> Any:
    """The 64 bits from array[index] on, the first the lowest (on little-endian machines). Nothing checks that the
    array has them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=1)

    return types.uint64(array, types.intp), generate


def _store_eight(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write 64 bits over array[index] and what follows it, the lowest first (on little-endian machines). Nothing
    checks that the array has room for them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_value, place, number = arguments
        builder.store(number, _pointer(context, builder, signature.args[0], array_value, place), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), generate


def _borrowed(_typing: Any, array: Any) -> Any:
    """The array, without an owner: somebody else must keep it while this is in use.

    Each call between kernels counts the owners of its arrays up and down, in atomic steps; for a kernel that is called
    for every word that takes longer than its work.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = context.make_array(signature.return_type)(context, builder, arguments[0])
        found.meminfo = cgutils.get_null_value(found.meminfo.type)
        return found._getvalue()

    return array(array), generate


def _prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Ask the processor to fetch what lies at array[index], which will be read soon, and go on at once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(place, [arguments[1]]), _BYTES)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, number, number, number])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(ask, [place, number(0), number(3), number(1)])  # to read; keep it near; it is data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


load_eight: Any = intrinsic(_load_eight)
store_eight: Any = intrinsic(_store_eight)
borrowed: Any = intrinsic(_borrowed)
prefetch: Any = intrinsic(_prefetch)
