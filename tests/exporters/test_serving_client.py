"""The example client against messages of the real package, and against a server on this machine that runs an export."""

import functools
import importlib.util
import sys
from concurrent import futures

import grpc
import nibabel
import numpy as np
import pytest
import tensorflow as tf
from support.datasets import oblique_affine, waves_in_air
from support.paths import FIXTURES, ROOT
from support.trained_models import save_to_export
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2

import zoo
from zoo.exporters.export import Windows
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings

TOP = ROOT
WINDOWS = Settings(patch=(64, 64, 64), overlap=0.0)  # few and large: time goes into the messages
MADE = FIXTURES / "serving"


@pytest.fixture(scope="module")
def client():
    spec = importlib.util.spec_from_file_location("serving_client", TOP / "examples" / "serving_client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_to_export(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def models(folder, tmp_path_factory):
    """A folder as Serving wants it: models/NAME/VERSION."""
    home = tmp_path_factory.mktemp("models")
    zoo.export(folder, home / "small" / "1", patch=WINDOWS.patch, windows=Windows(overlap=0.0))
    return home


loaded = functools.cache(tf.saved_model.load)


class Server:
    """What `tensorflow_model_server` does for Predict: the newest version, the signature asked for, value by value."""

    def __init__(self, models, request, response):
        self.models, self.request, self.response = models, request, response

    def service(self, details):
        if details.method != "/tensorflow.serving.PredictionService/Predict":
            return None
        return grpc.unary_unary_rpc_method_handler(
            self.predict,
            request_deserializer=self.request.FromString,
            response_serializer=self.response.SerializeToString,
        )

    def predict(self, request, context):
        home = self.models / request.model_spec.name
        if not home.is_dir():
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: {request.model_spec.name}")
        newest = max(int(version.name) for version in home.iterdir())
        model = loaded(str(home / str(newest)))
        inputs = {
            name: tf.constant(tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor.SerializeToString())))
            for name, tensor in request.inputs.items()
        }
        try:
            result = model.signatures[request.model_spec.signature_name](**inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        response = self.response()
        for name, tensor in result.items():
            array = tensor.numpy()
            message = tensor_pb2.TensorProto(dtype=tensor.dtype.as_datatype_enum)
            message.tensor_shape.CopyFrom(tensor.shape.as_proto())
            field = message.float_val if array.dtype == np.float32 else message.int_val
            field.extend(array.ravel().tolist())
            response.outputs[name].MergeFromString(message.SerializeToString())
        return response


def official():
    from tensorflow_serving.apis import predict_pb2

    return predict_pb2.PredictRequest, predict_pb2.PredictResponse


has_package = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_serving") is None, reason="tensorflow-serving-api is not installed"
)


@pytest.fixture(scope="module", params=["own", pytest.param("tensorflow_serving", marks=has_package)])
def address(request, client, models):
    kinds = official() if request.param != "own" else (client.M["PredictRequest"], client.M["PredictResponse"])
    server = grpc.server(futures.ThreadPoolExecutor(1), options=client.LIMITS)
    server.add_generic_rpc_handlers((Server(models, *kinds),))
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None).wait()


def test_messages_are_those_of_the_real_package(client):
    request = client.M["PredictRequest"].FromString((MADE / "request.pb").read_bytes())
    spec = request.model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("brain_mask", "int16", 3)
    volume = np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4, 1)
    array = client.to_array(request.inputs["volume"])
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, volume)
    request.inputs["volume"].CopyFrom(client.to_tensor(volume))
    assert request.SerializeToString(deterministic=True) == (MADE / "request.pb").read_bytes()


@pytest.mark.parametrize("form", ["bytes", "values"])
def test_answers_are_read_in_both_forms(form, client):
    outputs = client.M["PredictResponse"].FromString((MADE / f"{form}.pb").read_bytes()).outputs
    assert bool(outputs["labels"].tensor_content) == (form == "bytes")
    labels, probabilities = (client.to_array(outputs[name]) for name in ("labels", "probabilities"))
    assert (labels.dtype, probabilities.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(labels, (np.arange(24) % 3).reshape(2, 3, 4))
    np.testing.assert_array_equal(probabilities.ravel(), np.linspace(0, 1, 48, dtype=np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", "int16", "int8", "int64", "bool"])
def test_tensors_are_tensorflows(dtype, client):
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    there = tensor_pb2.TensorProto.FromString(client.to_tensor(array).SerializeToString())
    assert there.dtype == tf.as_dtype(dtype).as_datatype_enum
    np.testing.assert_array_equal(tf.make_ndarray(there), array)
    one_by_one = tf.make_tensor_proto(array.dtype.type(1), dtype, (2, 3))  # a single value stands for all
    back = client.M["Tensor"].FromString(one_by_one.SerializeToString())
    np.testing.assert_array_equal(client.to_array(back), np.ones((2, 3), dtype))


def test_a_scan_larger_than_grpcs_default_is_segmented(client, address, folder, tmp_path):
    scan = waves_in_air((110, 105, 100), oblique_affine())  # 4.4 MiB as float32
    nibabel.save(scan, tmp_path / "scan.nii.gz")
    words = [tmp_path / "scan.nii.gz", tmp_path / "labels.nii.gz", "--server", address, "--model", "small"]
    assert client.main([str(word) for word in words]) == 0
    image = nibabel.load(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
    expected = np.asanyarray(Predictor(folder, settings=WINDOWS)(scan).dataobj)
    assert np.mean(np.asanyarray(image.dataobj) == expected) >= 0.999 and len(np.unique(expected)) > 1


def test_a_large_answer_comes_back(client, address):
    scan = waves_in_air((80, 75, 70))
    inputs = {"volume": np.asarray(scan.dataobj, np.int16)[..., None], "affine": np.eye(4, dtype=np.float32)}
    inputs["spacing_mm"] = np.zeros(3, np.float32)
    with grpc.insecure_channel(address, options=client.LIMITS) as channel:
        result = client.predict(channel, "small", inputs, signature="int16", version=1)
    assert result["probabilities"].nbytes > 4 * 2**20
    np.testing.assert_allclose(result["probabilities"].sum(-1), 1, atol=1e-5)


def test_what_the_server_refuses_is_one_line(client, address, tmp_path, capsys):
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 16, 16), np.float32), np.eye(4)), tmp_path / "empty.nii")
    for model, message in (("small", "finite and not all zero"), ("smal", "NOT_FOUND: Servable not found: smal")):
        words = [str(tmp_path / "empty.nii"), str(tmp_path / "out.nii"), "--server", address, "--model", model]
        assert client.main(words) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out.nii").exists()
    with pytest.raises(ValueError, match="Arrays of complex64 do not travel"):
        client.to_tensor(np.zeros(3, np.complex64))


def test_the_folder_is_what_serving_reads(models):
    home = models / "small"
    assert [path.name for path in home.iterdir()] == ["1"]
    assert {"saved_model.pb", "variables"} <= {path.name for path in (home / "1").iterdir()}
    content = saved_model_pb2.SavedModel.FromString((home / "1" / "saved_model.pb").read_bytes())
    (graph,) = content.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    used = {node.op for node in graph.graph_def.node}
    used |= {node.op for function in graph.graph_def.library.function for node in function.node_def}
    used -= {function.signature.name for function in graph.graph_def.library.function}
    assert not [op for op in used if not hasattr(tf.raw_ops, op)]  # a server has TensorFlow's operations alone
    assert not {"PyFunc", "EagerPyFunc", "PyFuncStateless"} & used
    for key, definition in graph.signature_def.items():
        if not key.startswith("__"):
            assert definition.method_name == "tensorflow/serving/predict"
            assert all(path.name for path in (*definition.inputs.values(), *definition.outputs.values()))


def test_the_client_needs_no_tensorflow():
    lines = (TOP / "examples" / "serving_client.py").read_text().splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported - set(sys.stdlib_module_names) == {"grpc", "google", "nibabel", "numpy"}
