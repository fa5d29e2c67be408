"""The clients: one to open a session, the others made by it."""

from ..training.operations import TrainStepOutput
from .base import Client
from .rest import RestClient
from .sampling import SamplingClient
from .service import ServiceClient
from .training import TrainingClient

__all__ = ["Client", "RestClient", "SamplingClient", "ServiceClient", "TrainStepOutput", "TrainingClient"]
