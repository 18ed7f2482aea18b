"""`medal export`: the file gives the student's logits in somebody else's runtime, and says how to feed it."""

import json
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import student_squares
import timm
import torch

from medal.cache.errors import StudentError
from medal.cache.machine.drafts import drafted
from medal.cli import group
from medal.pipeline.views.transforms import resize_images
from medal.student.figures.temperature import describe_temperature
from medal.student.run.predictions import read_predictions
from medal.student.using import exported
from medal.student.using.trained import open_run

onnx = pytest.importorskip("onnx", reason="ONNX needs the extra [export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the extra [export]")
pytest.importorskip("onnxscript", reason="ONNX needs the extra [export]")


@pytest.fixture(scope="module")
def whole(squares, medal, tmp_path_factory):
    """The run as ONNX, and what was told of it."""
    path = tmp_path_factory.mktemp("export") / "student.onnx"
    return path, medal("export", squares / "run", squares / "squares.npz", "--out", path)


def recorded_test(squares):
    """The test images as pixels (N, 3, S, S) in 0…1, and the logits that the run recorded of them."""
    dataset = student_squares.hold(student_squares.draw_arrays())
    part = read_predictions(squares / "run")["test"]
    rows = {dataset.images.key(row): row for row in range(len(dataset))}
    images = [dataset.images.read(rows[key.tobytes()]) for key in part.key]
    return (resize_images(images, 32, "squash") / 255).numpy(), part.logits


def test_onnx_gives_the_logits_that_the_run_recorded_at_any_batch_size(whole, squares):
    path, told = whole
    assert told["checked"] == 24
    assert told["difference"] <= 1e-4
    assert told["bytes"] == path.stat().st_size
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels, expected = recorded_test(squares)
    for part in (slice(0, 1), slice(1, 8), slice(8, 24)):
        (logits,) = session.run(["logits"], {"pixels": pixels[part]})
        np.testing.assert_allclose(logits, expected[part], atol=1e-4)
    assert [item.name for item in path.parent.iterdir()] == ["student.onnx"]


def test_onnx_says_how_to_feed_and_to_read_it(whole, squares):
    onnx.checker.check_model(str(whole[0]))
    session = onnxruntime.InferenceSession(whole[0], providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert "not a medical device" in said["notice"]
    told = json.loads(said["medal"])
    trained = open_run(squares / "run", "cpu")
    assert told["class_names"] == ["0", "1", "2"]
    assert told["temperature"] == describe_temperature(trained.temperature)
    assert told["input"]["shape"] == ["batch", 3, 32, 32]
    assert told["input"]["resize"] == "squash"
    assert told["input"]["mean_and_std_in_the_graph"] == [
        list(trained.preprocessing.mean),
        list(trained.preprocessing.std),
    ]
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]


def test_an_exported_program_gives_the_same_logits_and_holds_no_pickle(squares, tmp_path, capsys):
    path = tmp_path / "student.pt2"
    words = ["export", str(squares / "run"), "--format", "exported-program", "--out", str(path)]
    group.main(words, prog_name="medal", standalone_mode=False)
    told = capsys.readouterr().out
    assert "logits differ by at most" in told
    assert "on 64 random images" in told
    assert "not a medical device" in told
    extra = {"medal.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    pixels, expected = recorded_test(squares)
    np.testing.assert_allclose(program(torch.from_numpy(pixels)).detach().numpy(), expected, atol=1e-4)
    assert json.loads(extra["medal.json"])["class_names"] == ["0", "1", "2"]
    with zipfile.ZipFile(path) as archive:
        pickled = [name for name in archive.namelist() if archive.read(name)[:2] in (b"\x80\x02", b"PK")]
    assert pickled == []


def test_int8_is_smaller_and_its_price_is_told(whole, squares, medal, tmp_path):
    path = tmp_path / "int8.onnx"
    told = medal("export", squares / "run", squares / "squares.npz", "--out", path, "--quantize", "int8")
    assert told["bytes"] == path.stat().st_size < 0.5 * whole[0].stat().st_size
    assert set(told["int8"]) == {"val", "test"}
    metrics = json.loads((squares / "run/metrics.json").read_text())
    for split, cost in told["int8"].items():
        assert cost["images"] == 24
        for name in ("auroc", "accuracy"):
            assert cost["float32"][name] == pytest.approx(metrics[split][name], abs=1e-6)
    # Independently: the file's own decisions on the images of test.
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels, expected = recorded_test(squares)
    (logits,) = session.run(["logits"], {"pixels": pixels})
    assert told["int8"]["test"]["same_decision"] == (logits.argmax(1) == expected.argmax(1)).mean()
    said = json.loads(session.get_modelmeta().custom_metadata_map["medal"])
    assert said["quantised"] == {"to": "int8", "calibrated_on": 48}
    kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_calibration_sees_no_image_that_the_student_is_measured_on(squares):
    from medal.pipeline.datasets.opening import open_dataset
    from medal.student.using.quantisation import calibration_rows

    dataset = open_dataset(str(squares / "squares.npz"))
    rows = calibration_rows(open_run(squares / "run", "cpu"), dataset, dataset.keys())
    assert (dataset.split[rows] == 0).all()
    # Nor where nothing is said of splits: what the run recorded is left out.
    rows = calibration_rows(open_run(squares / "run", "cpu"), replace(dataset, split=None), dataset.keys())
    assert (dataset.split[rows] == 0).all()


def test_what_stands_there_is_not_replaced_unasked(whole, squares, medal):
    before = whole[0].read_bytes()
    with pytest.raises(StudentError, match="is there already; give --overwrite"):
        medal("export", squares / "run", "--out", whole[0])
    for words in (["--out", whole[0].with_suffix(".pt2")], ["--out", whole[0], "--format", "exported-program"]):
        with pytest.raises(StudentError, match=r"must end in \.(onnx|pt2), the suffix of --format"):
            medal("export", squares / "run", *words, "--overwrite")
    with pytest.raises(StudentError, match="needs --format onnx, and a DATASET"):
        medal("export", squares / "run", "--out", whole[0], "--overwrite", "--quantize", "int8")
    assert whole[0].read_bytes() == before


def test_a_file_that_is_not_the_student_is_not_kept(squares, tmp_path):
    trained = open_run(squares / "run", "cpu")
    model = exported.Classifier(trained)
    pixels, _ = recorded_test(squares)

    def skewed(part):
        return model(torch.from_numpy(part)).detach().numpy() + np.float32(2e-4)

    def write():
        with drafted(tmp_path / "student.onnx", exported.export_draft(tmp_path / "student.onnx")) as draft:
            draft.write_bytes(b"half")
            exported.compare(model, skewed, pixels, trained, "onnx")

    with pytest.raises(StudentError, match=r"gives different logits from the student: up to 0\.0002"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_the_command(squares, medal, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(StudentError, match=r'needs onnxscript, which is not installed; pip install "medalmighty'):
        medal("export", squares / "run", "--out", tmp_path / "student.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "exported-program"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "tf_efficientnet_lite0"])
def test_the_usual_students_export_to_the_same_logits(squares, name, form, tmp_path):
    torch.manual_seed(0)
    trained = open_run(squares / "run", "cpu")
    large = replace(trained.preprocessing, image_size=112)
    student = timm.create_model(name, num_classes=3).eval()
    trained = replace(trained, architecture=name, model=student, preprocessing=large)
    assert exported.write_export(trained, tmp_path / f"student.{form}", form, None) <= 1e-4
