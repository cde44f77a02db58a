from .forks import Ending as Ending
from .forks import Fork as Fork
from .forks import ForkServer as ForkServer
from .forks import Kind as Kind
from .limits import Limits as Limits
from .walls import WallFound as WallFound
from .walls import examine as examine
from .world import World as World
