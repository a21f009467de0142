import platform
import subprocess
import sys

import pytest

# A block of 80 MB, which glibc would return to the system: 19,500 pages.
SCRIPT = """
import resource, torch
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
{setting}
def faults():
    torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
vae = AudioVAE(Grid(), latent_dim=2, channels=8, blocks=1)
with torch.no_grad():
    vae.encode(torch.zeros(1, Grid().samples))
faults()
print(min(-faults() + faults() for _ in range(5)))
"""


def page_faults(setting: str) -> int:
    """How many pages one of equal allocations after another fetches, at least.

    Not each: a small block that the interpreter keeps can lie where the next large one would fit.
    """
    script = SCRIPT.format(setting=setting)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left alone")
def test_freed_memory_is_used_again_only_if_asked_for() -> None:
    asked = "from techloop.allocator import keep_freed_memory; keep_freed_memory()"
    assert page_faults(asked) < 1000
    assert page_faults("") > 10_000, "the library changes the process's allocator"
