"""Entry points, and the rooms of what they call.

A program that is started by its file has this folder first on its path, where ours would be found
in place of a user's module called `memory` or `report`; it goes.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]
