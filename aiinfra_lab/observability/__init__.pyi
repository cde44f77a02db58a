from . import logs as logs
from .progress_line import Progress as Progress
from .progress_line import parse_progress as parse_progress
from .reporter import Reporter as Reporter
from .reporter import progress as progress
