"""The torchvision repair: in a process of its own, because an import cannot be undone."""

import subprocess
import sys

import pytest
import torch


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


cpu_torch = pytest.mark.skipif(
    torch.version.cuda is not None, reason="the repair is for a torch without CUDA"
)


def test_importing_sightline_imports_neither_torch_nor_torchvision():
    done = run("import sys, sightline; assert not {'torch', 'torchvision'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


@cpu_torch
def test_without_the_repair_the_import_dies():
    done = run("import torchvision")
    if done.returncode == 0:
        pytest.skip("this torchvision was built for the CPU; there is nothing to repair")
    assert "torchvision::nms" in done.stderr


def test_processors_can_be_imported_and_take_pil_images():
    done = run(
        "import sightline, sys\n"
        "from PIL import Image\n"
        "from transformers import SmolVLMProcessor, Qwen2VLProcessor, LlavaProcessor, AutoProcessor\n"
        "from transformers import CLIPImageProcessor, SmolVLMImageProcessor, SmolVLMVideoProcessor\n"
        "import torchvision\n"
        "from torchvision.transforms.v2 import functional as F\n"
        "image = Image.new('RGB', (40, 30), 'red')\n"
        "assert F.resize(image, [8, 8]).size == (8, 8)\n"
        "for cls in (CLIPImageProcessor, SmolVLMImageProcessor):\n"
        "    assert cls()(images=image, return_tensors='pt')['pixel_values'].numel()\n"
        "assert not any('_Finder' in repr(f) for f in sys.meta_path)\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_finder_is_installed_once_and_leaves_other_imports_alone():
    done = run(
        "import sys, sightline\n"
        "from sightline import torchvision_cpu as repair\n"
        "repair.install()\n"
        "assert sys.meta_path.count(repair._Finder) == 1\n"
        "import json.tool, wave\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr
