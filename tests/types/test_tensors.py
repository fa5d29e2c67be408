"""Tensors: copies of arrays, their encoded form, and conversions back to arrays and lists."""

import pickle

import numpy as np
import pytest

from tinkex_sync import types
from tinkex_sync.protocol import json_wire as codec

PROMPT = types.ModelInput.from_ints([1])


def tensor(value, key="weights"):
    return types.Datum(loss_fn_inputs={key: value}, model_input=PROMPT).loss_fn_inputs[key]


def sent(value, key="weights"):
    return codec.loads(codec.encode(tensor(value, key)))


def test_an_array_is_copied_when_the_datum_is_made() -> None:
    array = np.ones(3, dtype=np.float32)
    copied = tensor(array)
    array[:] = 7
    assert copied.tolist() == [1.0, 1.0, 1.0]


def test_to_numpy_returns_a_copy() -> None:
    kept = tensor(np.ones(3, dtype=np.float32))
    kept.to_numpy()[:] = 7
    assert kept.tolist() == [1.0, 1.0, 1.0]


def test_float32_is_sent_in_its_shortest_form_and_float64_unrounded() -> None:
    assert codec.encode(tensor(np.float32([0.1, 1 / 3]))) == (
        b'{"data":[0.1,0.33333334],"dtype":"float32","shape":[2]}'
    )
    assert sent(np.float64([0.1, 1 / 3]))["data"] == [0.1, 1 / 3]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        np.arange(12, dtype=">f4")[::2],
        np.arange(6, dtype=">i8")[::-1],
        np.arange(4, dtype=np.float16).reshape(2, 2),
        np.array(5.0, dtype=np.float32),
        np.zeros((2, 0), dtype=np.int8),
        np.array([True, False]),
        np.array([1, 255], dtype=np.uint8),
        np.arange(4, dtype=np.float32).view(np.ndarray).reshape(2, 2)[:, ::-1],
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_arrays_of_any_memory_layout_are_sent_in_row_major_order(array) -> None:
    body = sent(array)
    assert body["data"] == [float(x) if array.dtype.kind == "f" else int(x) for x in array.flatten().tolist()]
    assert body["shape"] == list(array.shape)
    assert body["dtype"] == ("float32" if array.dtype.kind == "f" else "int64")


def test_an_unsigned_value_beyond_int64_is_sent_unchanged_and_overflows_when_read() -> None:
    big = tensor(np.array([2**63], dtype=np.uint64))
    assert codec.loads(codec.encode(big))["data"] == [2**63]
    for read in (big.to_numpy, big.tolist):
        with pytest.raises(OverflowError):
            read()


@pytest.mark.parametrize("dtype", ["complex64", "object", "U3", "S2", "datetime64[s]"])
def test_a_non_numeric_array_is_refused_with_its_name_and_dtype(dtype) -> None:
    with pytest.raises(ValueError, match="loss_fn_inputs.weights.*dtype"):
        tensor(np.array([1, 2]).astype(dtype))


def test_a_masked_array_with_masked_values_is_refused() -> None:
    with pytest.raises(ValueError, match="masked"):
        tensor(np.ma.array([1.0, 2.0], mask=[False, True]))
    assert tensor(np.ma.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_tolist_reshapes_as_numpy_does() -> None:
    for shape in ([4], [2, 2], [1, -1], [-1, 1, 2], [4, 1]):
        data = types.TensorData(data=[1, 2, 3, 4], dtype="int64", shape=shape)
        assert data.tolist() == data.to_numpy().tolist()
    for shape in ([3], [-1, -1], [0], [3, -1]):
        with pytest.raises(ValueError, match="reshape"):
            types.TensorData(data=[1, 2, 3, 4], dtype="int64", shape=shape).tolist()
    assert types.TensorData(data=[], dtype="int64", shape=[2, 0]).tolist() == [[], []]


def test_tensors_are_equal_by_content_and_survive_pickle() -> None:
    array = tensor(np.float32([1, 2]))
    assert array == tensor([1.0, 2.0])
    assert array != tensor([1.0, 3.0])
    assert array != types.TensorData(data=[1.0, 2.0], dtype="int64", shape=[2])
    assert pickle.loads(pickle.dumps(array)) == array


def test_elements_that_a_sparse_matrix_leaves_out_are_read_as_the_pad_value() -> None:
    sparse = types.TensorData(
        data=[5, 6], dtype="int64", shape=[2, 2], sparse_crow_indices=[0, 1, 2], sparse_col_indices=[1, 0]
    )
    assert sparse.tolist() == [[0, 5], [6, 0]]
    assert sparse.tolist(pad_value=-1) == sparse.to_numpy(-1).tolist() == [[-1, 5], [6, -1]]
    assert types.TensorData(data=[1.0], dtype="float32", shape=[1]).tolist(pad_value=0.0) == [1.0]


def test_a_sparse_tensor_is_sent_with_all_elements() -> None:
    torch = pytest.importorskip("torch", reason="torch is not in this environment")
    tensor = torch.zeros(8, 8)
    tensor[1, 2] = 3.0
    made = types.TensorData.from_torch_sparse(tensor, pad_value=0)
    assert made == types.TensorData.from_torch(tensor)
    assert torch.equal(made.to_torch(pad_value=0), tensor)
