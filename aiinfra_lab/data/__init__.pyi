from .digits import load_digits as load_digits
from .images import Images as Images
from .images import ImageSet as ImageSet
