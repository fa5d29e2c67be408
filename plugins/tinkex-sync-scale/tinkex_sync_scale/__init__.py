"""Sample datasets on clusters of Dask, Ray and Spark. The README and docs/scale_out.md describe it.

Importing this package imports neither an engine nor pyarrow.
"""

from .dataset import sample_dataset
from .job import JobError, Progress, Report

__all__ = ["JobError", "Progress", "Report", "sample_dataset"]
