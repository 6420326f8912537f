"""What a command waits for: loading a model imports nothing of PyTorch's compiler."""

import subprocess
import sys

import pytest

CODE = """
import sys
from taming.formats.load import load
for name in ("landscapes", "landscapes_segmenter"):
    load(name)
    print(name, "torch._dynamo" in sys.modules)
"""


@pytest.mark.slow
def test_loading_leaves_the_compiler_alone():
    """Building without memory asked for random numbers on the meta device, whose first one imports
    2,000 modules: two of the five seconds to the first picture.
    """
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["landscapes", "False", "landscapes_segmenter", "False"]
