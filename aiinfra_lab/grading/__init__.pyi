from .results import BatchResult as BatchResult
from .results import ExerciseResult as ExerciseResult
from .results import ShownDifference as ShownDifference
from .results import SubmissionResult as SubmissionResult
from .results import Wall as Wall
