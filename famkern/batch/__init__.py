"""Many files in, many files out: which files, under which names, one after another within one memory bound."""

from .jobs import FORMATS, Job, Measured, Options, Outcome, Skip
from .planning import plan_jobs
from .running import Progress, dehaze_files

__all__ = ["FORMATS", "Job", "Measured", "Options", "Outcome", "Progress", "Skip", "dehaze_files", "plan_jobs"]
