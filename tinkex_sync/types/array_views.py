"""Results as numpy arrays, under the names of the official SDK 0.38.0. numpy is imported when an array is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import MissingExtraError

if TYPE_CHECKING:
    import numpy

__all__ = ["TopkLogprobs"]

#: Fills the rows of positions with fewer than k tokens; their token id is 0.
_EMPTY_LOGPROB = -99999.0


class TopkLogprobs(NamedTuple):
    """The most probable tokens of each position. Unused places have token id 0 and log probability -99999.

    Attributes:
        token_ids: int32 array of shape [positions, k].
        logprobs: float32 array of shape [positions, k].
    """

    token_ids: Any
    logprobs: Any


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise MissingExtraError("arrays of results need numpy: pip install numpy") from None
    return numpy


def tokens_array(tokens: Sequence[int]) -> numpy.ndarray[Any, Any]:
    """Return a new int32 array of token ids."""
    made: numpy.ndarray[Any, Any] = _numpy().array(tokens, dtype="int32")
    return made


def logprobs_array(logprobs: Optional[Sequence[Optional[float]]]) -> Optional[numpy.ndarray[Any, Any]]:
    """Return a new float32 array with NaN for None; None if there are no log probabilities."""
    return None if logprobs is None else _numpy().array(logprobs, dtype="float32")


def topk_arrays(topk: Optional[List[Optional[List[Tuple[int, float]]]]]) -> Optional[TopkLogprobs]:
    """Return two new arrays of the most probable tokens; None if they were not requested."""
    if topk is None:
        return None
    numpy = _numpy()
    shape = (len(topk), max((len(pairs) for pairs in topk if pairs), default=0))
    tokens = numpy.zeros(shape, dtype="int32")
    logprobs = numpy.full(shape, _EMPTY_LOGPROB, dtype="float32")
    for row, pairs in enumerate(topk):
        for column, (token, logprob) in enumerate(pairs or ()):
            tokens[row, column], logprobs[row, column] = token, logprob
    return TopkLogprobs(tokens, logprobs)
