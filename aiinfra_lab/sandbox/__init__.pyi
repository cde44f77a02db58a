from .fork import Ending as Ending
from .fork import Fork as Fork
from .fork_server import ForkServer as ForkServer
from .fork_server import Kind as Kind
from .limits import Limits as Limits
from .walls import WallFound as WallFound
from .walls import examine as examine
from .world import World as World
