"""The language model of the embedded server: a byte-level transformer in numpy with gradients by autograd.

``TrainingModel`` is trained and ``SamplingModel`` generates samples. Both use the JSON forms of requests and results,
and are independent of HTTP. Set OMP_NUM_THREADS, OPENBLAS_NUM_THREADS and MKL_NUM_THREADS to 1 before importing numpy.
The matrices are small, and equal inputs give equal bits only on one BLAS thread.
"""

from .adapter_files import adapter_files
from .architecture import BASE_MODELS, CHAT_MODEL, DEFAULT_MODEL, BaseModel, ModelConfig
from .errors import EngineError
from .sampling import MAX_SAMPLES, SamplingModel
from .training import TrainingModel

__all__ = [
    "BASE_MODELS", "CHAT_MODEL", "DEFAULT_MODEL", "MAX_SAMPLES", "BaseModel", "EngineError", "ModelConfig",
    "SamplingModel", "TrainingModel", "adapter_files",
]  # fmt: skip
