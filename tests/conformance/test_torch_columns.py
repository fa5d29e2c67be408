"""The columns of tensor_decode that require torch. The other columns are checked without it."""

from typing import Any, Dict

import pytest

from .registry import check_raised
from .replay_types import decode_tensor, torch_cases


@pytest.mark.parametrize("case", torch_cases())
def test_reading_as_a_torch_tensor(case: Dict[str, Any]) -> None:
    pytest.importorskip("torch", reason="torch is not in this environment")
    expected = case["expected"]
    tensor = decode_tensor(case["input"]["json_text"])
    if "to_torch" in expected:
        with pytest.raises(Exception) as caught:
            tensor.to_torch()
        check_raised(caught.value, expected["to_torch"])
    else:
        made = tensor.to_torch()
        assert str(made.dtype) == expected["torch_dtype"]
        assert list(made.shape) == expected["torch_shape"]
        assert repr(made.tolist()) == repr(expected["tolist"])
