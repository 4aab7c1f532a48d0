"""What is said where the extra `dicomweb` is not installed, or only a part of it."""

import subprocess
import sys

import pytest

OPEN = "from petechia.data import open_source; open_source('dicomweb:https://x/y')"
WATCH = "import petechia; petechia.watch('dicomweb:https://x/y', 'timm:test_resnet', 'phantom', 'w', device='cpu')"


@pytest.mark.parametrize(
    ("missing", "code", "sentence"),
    [
        ("dicomweb_client", OPEN, "A PACS needs dicomweb_client; install it with pip install 'petechia[dicomweb]'."),
        ("dicomweb_client", WATCH, "A PACS needs dicomweb_client; install it with pip install 'petechia[dicomweb]'."),
        ("highdicom", WATCH, "A watch needs highdicom; install it with pip install 'petechia[dicomweb]'."),
        ("prometheus_client", WATCH, "A watch needs prometheus_client; install it with pip install 'petechia[dicomweb]'."),
    ],
)
def test_a_missing_extra_is_named(missing: str, code: str, sentence: str) -> None:
    pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
    pytest.importorskip("highdicom", reason="the extra dicomweb is not installed")
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from petechia import PetechiaError\ntry:\n    {code}\nexcept PetechiaError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == sentence
