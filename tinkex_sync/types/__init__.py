"""The wire types: request bodies, responses and the values in them.

The names are those of versions 0.7.0 and 0.38.0 of the official SDK. The ``__all__`` of each module is the only list of
its public names.
"""

from . import array_views, checkpoints, futures, inputs, sampling, server_config, sessions, telemetry, tensors, training
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
