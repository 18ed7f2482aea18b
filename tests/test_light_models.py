"""Light timm models: each trains an epoch as anybody would, loads by timm with the same logits, and exports."""

import json
import sys

import pytest
import student_squares
import timm
import torch

from medal.student.using.trained import open_run

# Mobile networks of every make, and the five that once ended the process (their stems are folded after training).
MODELS = (
    *("mobileone_s0", "mobileone_s1", "fastvit_t8", "fastvit_sa12"),
    *("repvgg_a0", "mobilenetv2_050", "mobilenetv3_small_100", "mobilenetv4_conv_small"),
    *("efficientnet_lite0", "efficientnet_b0", "ghostnet_100", "tinynet_e"),
    *("lcnet_050", "mnasnet_small", "resnet10t", "regnetx_002"),
    *("edgenext_xx_small", "mobilevit_xxs", "convnext_atto", "starnet_s1"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MODELS)
def test_a_light_model_is_trained_loaded_and_exported(name, squares, shell, tmp_path):
    run = tmp_path / "run"
    words = ("train-student", squares / "squares.zarr", squares / "squares.npz", "--out", run, "--student", name)
    done = shell(*words, "--epochs", 1, "--image-size", 64, "--json")
    assert done.returncode == 0, done.stderr
    trained, recorded = open_run(run, "cpu"), student_squares.recorded(run)
    model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    pixels = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(pixels), trained.model(pixels))
    assert len(recorded) == sum(student_squares.SIZES[1:])
    out = shell("export", run, "--out", tmp_path / "x.pt2", "--format", "exported-program", "--json")
    assert out.returncode == 0, out.stderr
    plan = json.loads((run / "run.json").read_text())["precision"]
    layout = "channels last" if plan["channels_last"] else "channels first"
    sys.stdout.write(f"{name}: {plan['precision']}, {layout}, {json.loads(done.stdout)['seconds']:.0f} s\n")
