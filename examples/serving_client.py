#!/usr/bin/env python3
"""Segments a scan on a TensorFlow Serving machine, over gRPC: the client needs neither zoo nor TensorFlow.

    zoo export unet3d.brain_mask models/brain_mask/1
    docker run -p 8500:8500 -v "$PWD/models:/models" -e MODEL_NAME=brain_mask tensorflow/serving

    pip install grpcio protobuf numpy nibabel
    python examples/serving_client.py head.nii.gz labels.nii.gz --server localhost:8500 --model brain_mask

A model of several channels takes several scans on one grid, in the order of its card. The few messages that travel are
defined below with the field numbers of TensorFlow's and Serving's own .proto files, in a pool of their own: they stand
beside tensorflow-serving-api where it is installed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

import grpc
import nibabel
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

METHOD = "/tensorflow.serving.PredictionService/Predict"
LARGEST = 2**31 - 1  # bytes of a message; gRPC's own default is 4 MiB to receive, less than one head
LIMITS = [("grpc.max_send_message_length", LARGEST), ("grpc.max_receive_message_length", LARGEST)]

# Name of a NumPy type: its number in types.proto, and the field of TensorProto that may hold its values one by one.
DTYPES = {
    "float32": (1, "float_val"),
    "float64": (2, "double_val"),
    "int32": (3, "int_val"),
    "uint8": (4, "int_val"),
    "int16": (5, "int_val"),
    "int8": (6, "int_val"),
    "int64": (9, "int64_val"),
    "bool": (10, "bool_val"),
}

# Message: field -> (number, type); "*" marks what repeats, "{}" a map from string.
MESSAGES = {
    "Dim": {"size": (1, "int64")},
    "Shape": {"dim": (2, "*Dim")},
    "Tensor": {"dtype": (1, "int32"), "tensor_shape": (2, "Shape"), "tensor_content": (4, "bytes"),
               "float_val": (5, "*float"), "double_val": (6, "*double"), "int_val": (7, "*int32"),
               "int64_val": (10, "*int64"), "bool_val": (11, "*bool")},
    "Version": {"value": (1, "int64")},
    "ModelSpec": {"name": (1, "string"), "version": (2, "Version"), "signature_name": (3, "string")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "{}Tensor")},
    "PredictResponse": {"outputs": (1, "{}Tensor"), "model_spec": (2, "ModelSpec")},
}  # fmt: skip


def messages() -> dict[str, type]:
    """The message classes by name."""
    file = descriptor_pb2.FileDescriptorProto(name="serving_client.proto", package="served", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}")) for name in MESSAGES
    }


def _add(message: descriptor_pb2.DescriptorProto, field: str, number: int, kind: str) -> None:
    Field = descriptor_pb2.FieldDescriptorProto  # noqa: N806 - a class
    if kind.startswith("{}"):
        entry = message.nested_type.add(name=f"{field.capitalize()}Entry")
        entry.options.map_entry = True
        _add(entry, "key", 1, "string")
        _add(entry, "value", 2, kind[2:])
        kind = f"*{message.name}.{entry.name}"
    repeats, kind = kind.startswith("*"), kind.lstrip("*")
    added = message.field.add(name=field, number=number)
    added.label = Field.LABEL_REPEATED if repeats else Field.LABEL_OPTIONAL
    if kind[0].isupper():
        added.type, added.type_name = Field.TYPE_MESSAGE, f".served.{kind}"
    else:
        added.type = Field.Type.Value(f"TYPE_{kind.upper()}")


M = messages()


def to_tensor(array: np.ndarray):
    """An array as the message that carries it.

    Raises:
        ValueError: a dtype that does not travel.
    """
    array = np.asarray(array)
    if array.dtype.name not in DTYPES:
        raise ValueError(f"Arrays of {array.dtype.name} do not travel; convert to one of {', '.join(DTYPES)}.")
    tensor = M["Tensor"](dtype=DTYPES[array.dtype.name][0], tensor_content=array.tobytes())
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def to_array(tensor) -> np.ndarray:
    """The array that a message carries: as bytes, or value by value as Serving answers; the last may stand for more.

    Raises:
        ValueError: a dtype that is not known here.
    """
    found = [(name, field) for name, (number, field) in DTYPES.items() if number == tensor.dtype]
    if not found:
        raise ValueError(f"A tensor of type {tensor.dtype} in types.proto came back; known are {', '.join(DTYPES)}.")
    (name, field), shape = found[0], [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, name).reshape(shape)
    values = np.array(getattr(tensor, field), name)
    rest = int(np.prod(shape)) - len(values)
    last = values[-1] if len(values) else 0
    return np.concatenate([values, np.full(rest, last, name)]).reshape(shape)


def predict(
    channel: grpc.Channel,
    model: str,
    inputs: Mapping[str, np.ndarray],
    *,
    signature: str = "labels",
    version: int | None = None,
    timeout_s: float = 600,
) -> dict[str, np.ndarray]:
    """Asks a server.

    Args:
        channel: opened with `LIMITS`.
        model: as the server calls it (MODEL_NAME).
        inputs: of the signature, by name.
        signature: "labels", "serving_default", "int16" or "patch".
        version: None for the newest.
        timeout_s: how long to wait.

    Returns:
        The outputs by name.

    Raises:
        ValueError: more than a message holds.
        ConnectionError: what the server said.
    """
    request = M["PredictRequest"]()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(array))
    if request.ByteSize() > LARGEST:
        raise ValueError(f"The request has {request.ByteSize()} bytes, and gRPC carries {LARGEST}. Crop the volume.")
    call = channel.unary_unary(
        METHOD,
        request_serializer=M["PredictRequest"].SerializeToString,
        response_deserializer=M["PredictResponse"].FromString,
    )
    try:
        response = call(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise ConnectionError(f"The server answered {error.code().name}: {error.details()}") from error
    return {name: to_array(tensor) for name, tensor in response.outputs.items()}


def segment(
    channel: grpc.Channel, model: str, paths: Sequence[str], *, tabular: Sequence[float] = ()
) -> nibabel.Nifti1Image:
    """Labels of a scan on its own grid.

    Args:
        channel: opened with `LIMITS`.
        model: as the server calls it.
        paths: NIfTI files, one a channel.
        tabular: values beside the images in the order of the card, NaN where one is not known.
    """
    scans = [nibabel.load(path) for path in paths]
    inputs = {
        "volume": np.stack([np.asarray(scan.dataobj, np.float32) for scan in scans], -1),
        "spacing_mm": np.zeros(3, np.float32),  # zeros: the affine tells it
        "affine": scans[0].affine.astype(np.float32),
    }
    if tabular:
        inputs["tabular"] = np.array(tabular, np.float32)
    return nibabel.Nifti1Image(predict(channel, model, inputs)["labels"], scans[0].affine)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scans", nargs="+", metavar="SCAN", help="NIfTI files, one a channel")
    parser.add_argument("out", metavar="LABELS", help="the NIfTI file to write")
    parser.add_argument("--server", default="localhost:8500", help="host:port of gRPC")
    parser.add_argument("--model", required=True, help="the server's MODEL_NAME")
    parser.add_argument("--tabular", type=float, nargs="+", default=(), help="in the card's order, nan where not known")
    given = parser.parse_args(words)
    try:
        with grpc.insecure_channel(given.server, options=LIMITS) as channel:
            nibabel.save(segment(channel, given.model, given.scans, tabular=given.tabular), given.out)
    except (ConnectionError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
