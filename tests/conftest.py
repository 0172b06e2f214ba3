"""What all tests share: child processes of tests find `support` as the tests do."""

import os

from support.paths import TESTS

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
