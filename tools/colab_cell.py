# Only for Colab: fetch the package with its data and results. What Colab brings, torch and numpy too, stays as it is.
import subprocess
import sys
from importlib.util import find_spec

if "google.colab" in sys.modules and find_spec("posebook") is None:
    package = "posebook @ git+https://github.com/posebook/posebook"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)
