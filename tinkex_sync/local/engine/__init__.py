"""The embedded server's model: it really trains, and really samples.

A byte-level transformer in numpy with gradients by autograd (extra ``local``). ``TrainingModel`` is trained,
``SamplingModel`` is sampled from; both speak the JSON shapes of the wire and know nothing of HTTP. Set
OMP_NUM_THREADS, OPENBLAS_NUM_THREADS and MKL_NUM_THREADS to 1 before numpy is first imported: the matrices
are small, and only then do the same inputs give the same bits.
"""

from .architecture import BASE_MODELS, DEFAULT_MODEL, BaseModel, ModelConfig
from .errors import EngineError
from .sampling import SamplingModel
from .training import TrainingModel

__all__ = [
    "BASE_MODELS",
    "DEFAULT_MODEL",
    "BaseModel",
    "EngineError",
    "ModelConfig",
    "SamplingModel",
    "TrainingModel",
]
