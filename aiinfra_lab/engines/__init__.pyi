from .valkey import open_valkey as open_valkey
from .valkey import open_valkey_async as open_valkey_async
from .valkey_client import connect_valkey as connect_valkey
from .valkey_client import connect_valkey_async as connect_valkey_async
from .valkey_client import public_url as public_url
from .valkey_server import ValkeyServer as ValkeyServer
