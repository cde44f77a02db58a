from .child import Child as Child
from .probes import FileText as FileText
from .probes import HttpAnswers as HttpAnswers
from .probes import LogLine as LogLine
from .probes import PortBound as PortBound
from .probes import PortOpen as PortOpen
from .probes import Probe as Probe
from .service import Service as Service
