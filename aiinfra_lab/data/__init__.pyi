from .digits import load_digits as load_digits
from .images import Images as Images
from .images import ImageSet as ImageSet
from .partitions import by_label as by_label
from .partitions import dirichlet as dirichlet
from .partitions import iid as iid
