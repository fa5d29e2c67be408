"""Flat tensors, the form of the arrays in datums and results."""

import array
import math
import struct
import sys
from dataclasses import field
from typing import TYPE_CHECKING, Any, Dict, List, Literal, Optional, Sequence

from ..errors import MissingExtraError
from .decoders import FieldError, numbers
from .dumping import NOT_GIVEN
from .wire import FastWire, coding

if TYPE_CHECKING:
    import numpy
    import torch

__all__ = ["TensorData", "TensorDtype"]

TensorDtype = Literal["int64", "float32"]

_INT64_MAX = 2**63 - 1


def _loaded(module: str, name: str) -> Any:
    """Return a class of an imported package; () if it is not imported, so that isinstance is False."""
    return getattr(sys.modules.get(module), name, ())


def is_array(value: Any) -> bool:
    """Return whether ``value`` is a numpy array, without importing numpy."""
    return isinstance(value, _loaded("numpy", "ndarray"))


def is_tensor(value: Any) -> bool:
    """Return whether ``value`` is a torch tensor, without importing torch."""
    return isinstance(value, _loaded("torch", "Tensor"))


def _flat(source: Any) -> Any:
    """Return a copy of a numpy array, one-dimensional in row-major order, as float32, float64, int64 or uint64.

    float16 becomes float32 (which holds it exactly), float64 keeps its digits, unsigned integers and bools
    become int64; uint64 stays only where a value would not fit.
    """
    kind, width = source.dtype.kind, source.dtype.itemsize
    if getattr(source, "mask", False) is not False and source.mask.any():
        raise FieldError("a masked array has no values where it is masked: call filled() on it")
    if kind == "f":
        wanted = "float32" if width <= 4 else "float64"
    elif kind in "iub":
        wanted = "uint64" if kind == "u" and source.size and int(source.max()) > _INT64_MAX else "int64"
    else:
        raise FieldError(f"cannot send an array of dtype {source.dtype}: convert it to float32 or int64")
    numpy = sys.modules["numpy"]
    return numpy.array(source, dtype=wanted, order="C", copy=True, subok=False).reshape(-1)


def _data(values: Any) -> Any:
    return _flat(values) if is_array(values) else numbers(values)


class TensorData(FastWire):
    """A tensor flattened in row-major order.

    Attributes:
        data: The elements, a list of ints or floats or a numpy array. It is copied once, when the object is made.
        dtype: The type that the server converts the elements to. Elements are rounded to it when they are read by
            ``to_numpy``, ``to_torch`` or ``tolist``, and when they are sent as protobuf.
        shape: The extents; None for one dimension. For a sparse matrix it is the shape of the whole matrix.
        sparse_crow_indices: For a sparse matrix (CSR), the start of each row in ``data``, and the end of the last one.
        sparse_col_indices: For a sparse matrix, the column of each element of ``data``.
    """

    data: Sequence[Any] = field(metadata=coding(_data))
    dtype: TensorDtype
    shape: Optional[List[int]] = NOT_GIVEN
    sparse_crow_indices: Optional[List[int]] = None
    sparse_col_indices: Optional[List[int]] = None

    @classmethod
    def from_packed(cls, packed: bytes, code: str, dtype: TensorDtype, shape: List[int]) -> "TensorData":
        """Return a tensor of a response. Its numbers are unpacked when ``data`` is read for the first time.

        Args:
            packed: The elements, little-endian.
            code: The format of one element in the struct module.
            dtype, shape: As the attributes; they are not checked.
        """
        made = cls.__new__(cls)
        made.__dict__.update(
            _packed=(packed, code), dtype=dtype, shape=shape, sparse_crow_indices=None, sparse_col_indices=None
        )
        return made

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__
        if name == "data" and (packed := values.get("_packed")):
            content, code = packed
            values.setdefault("data", list(struct.unpack(f"<{len(content) // struct.calcsize(code)}{code}", content)))
            values.pop("_packed", None)
        if name in values:  # by this thread, or by another one that was faster
            return values[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def to_wire(self) -> Dict[str, Any]:
        self.data  # noqa: B018  (unpacks it)
        return super().to_wire()

    @classmethod
    def from_numpy(cls, array: "numpy.ndarray[Any, Any]") -> "TensorData":
        """Copy an array of any shape. Floats are sent as float32, integers and bools as int64.

        Raises:
            ValueError: The elements are complex numbers, objects or strings.
        """
        dtype: TensorDtype = "float32" if array.dtype.kind == "f" else "int64"
        return cls(data=array, dtype=dtype, shape=list(array.shape))  # type: ignore[arg-type]

    @classmethod
    def from_torch(cls, tensor: "torch.Tensor") -> "TensorData":
        """Copy a detached tensor of any shape and device. Floats are sent as float32, integers and bools as int64.

        Raises:
            ValueError: The tensor is complex.
        """
        if tensor.is_complex():
            raise FieldError(f"cannot send a tensor of dtype {tensor.dtype}: convert it to float32 or int64")
        torch = sys.modules["torch"]
        floating = tensor.is_floating_point()
        flat = tensor.detach().cpu().flatten()
        if floating and flat.dtype not in (torch.float32, torch.float64):
            flat = flat.float()
        elif not floating and flat.dtype != getattr(torch, "uint64", None):
            flat = flat.long()
        try:
            data: Any = flat.numpy()
        except RuntimeError:  # torch without numpy
            data = flat.tolist()
        return cls(data=data, dtype="float32" if floating else "int64", shape=list(tensor.shape))

    @classmethod
    def from_torch_sparse(cls, tensor: "torch.Tensor", pad_value: int = 0) -> "TensorData":
        """Return :meth:`from_torch`. All elements are sent, also those that equal ``pad_value``."""
        return cls.from_torch(tensor)

    def to_numpy(self, pad_value: float = 0) -> "numpy.ndarray[Any, Any]":
        """Return a new array of ``dtype`` and ``shape``; fractions are cut off if ``dtype`` is int64.

        Args:
            pad_value: The value of elements that a sparse matrix leaves out.

        Raises:
            ValueError: The number of elements does not fit ``shape``.
            OverflowError: An element does not fit int64.
            MissingExtraError: numpy is not installed.
        """
        try:
            import numpy
        except ImportError:
            raise MissingExtraError("to_numpy() needs numpy: pip install numpy") from None
        packed = self.__dict__.get("_packed")
        data: Any = numpy.frombuffer(packed[0], f"<{packed[1]}") if packed else self.data
        if not is_array(data) or data.dtype.kind == "u" or self.sparse_crow_indices is not None:
            data = self._dense(pad_value)
        values = numpy.array(data, dtype=self.dtype)
        return values if self.shape is None else values.reshape(self.shape)

    def to_torch(self, pad_value: float = 0) -> "torch.Tensor":
        """Return a new tensor of ``dtype`` and ``shape``; arguments and errors as :meth:`to_numpy`, for torch."""
        try:
            import torch
        except ImportError:
            raise MissingExtraError("to_torch() needs torch: pip install torch") from None
        values = torch.tensor(self._dense(pad_value), dtype=getattr(torch, self.dtype))
        return values if self.shape is None else values.reshape(self.shape)

    def tolist(self, pad_value: float = 0) -> Any:
        """Return nested lists of ``shape``, rounded to ``dtype``; a single number if ``shape`` is empty.

        Args:
            pad_value: The value of elements that a sparse matrix leaves out.

        Raises:
            ValueError, OverflowError: As :meth:`to_numpy`.
        """
        code, kind = ("f", float) if self.dtype == "float32" else ("q", int)
        flat = array.array(code, map(kind, self._dense(pad_value))).tolist()
        if self.shape is None:
            return flat
        # As numpy does: one negative extent is computed from the others.
        size = math.prod(extent for extent in self.shape if extent >= 0)
        guessed = sum(extent < 0 for extent in self.shape)
        fits = size > 0 and len(flat) % size == 0 if guessed else size == len(flat)
        if guessed > 1 or not fits:
            raise ValueError(f"cannot reshape {len(flat)} elements into shape {self.shape}")
        return _nested(flat, [len(flat) // size if extent < 0 else extent for extent in self.shape])

    def _dense(self, pad_value: float) -> List[Any]:
        """Return the elements as a list, with ``pad_value`` where a sparse matrix leaves an element out."""
        source: Any = self.data
        data: List[Any] = source.tolist() if is_array(source) else list(source)
        crow, columns, shape = self.sparse_crow_indices, self.sparse_col_indices, self.shape
        if crow is None or columns is None or shape is None:
            return data
        width = shape[1]
        dense: List[Any] = [pad_value] * (shape[0] * width)
        for row, (start, stop) in enumerate(zip(crow, crow[1:])):
            for place in range(start, stop):
                dense[row * width + columns[place]] = data[place]
        return dense

    def __len__(self) -> int:
        """Return the number of elements of ``data``."""
        return len(self.data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        mine_form, other_form = (
            (each.dtype, each.shape, len(each), each.sparse_crow_indices, each.sparse_col_indices)
            for each in (self, other)
        )
        return mine_form == other_form and all(mine == theirs for mine, theirs in zip(self.data, other.data))


def _nested(flat: List[Any], extents: Sequence[int]) -> Any:
    if len(extents) < 2:
        return flat if extents else flat[0]
    size = math.prod(extents[1:])
    return [_nested(flat[row * size : (row + 1) * size], extents[1:]) for row in range(extents[0])]
