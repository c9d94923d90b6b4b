"""Exit with 0 if the service answers."""

import os
import urllib.request

urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/", timeout=3).read()
