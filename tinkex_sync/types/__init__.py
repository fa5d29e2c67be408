"""The wire types: request bodies, responses and the values in them (PROTOCOL, "Public API").

Each module lists its public names in ``__all__``, and nowhere else.
"""

from . import (
    array_views,
    checkpoints,
    futures,
    inputs,
    sampling,
    server_config,
    sessions,
    telemetry,
    tensors,
    training,
)
from .array_views import *  # noqa: F403
from .checkpoints import *  # noqa: F403
from .futures import *  # noqa: F403
from .inputs import *  # noqa: F403
from .sampling import *  # noqa: F403
from .server_config import *  # noqa: F403
from .sessions import *  # noqa: F403
from .telemetry import *  # noqa: F403
from .tensors import *  # noqa: F403
from .training import *  # noqa: F403

__all__ = []
__all__ += array_views.__all__
__all__ += checkpoints.__all__
__all__ += futures.__all__
__all__ += inputs.__all__
__all__ += sampling.__all__
__all__ += server_config.__all__
__all__ += sessions.__all__
__all__ += telemetry.__all__
__all__ += tensors.__all__
__all__ += training.__all__
