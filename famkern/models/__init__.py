"""The networks as plain modules, and the weights that come with famkern."""

from .loading import WeightsError, load
from .student import Student
from .teacher import DSCFSRCNN, Teacher
from .u_student import UStudent
from .zoo import available

__all__ = ["DSCFSRCNN", "Student", "Teacher", "UStudent", "WeightsError", "available", "load"]
