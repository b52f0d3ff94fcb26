"""Read configurations with the servers' own schemas, and print them as JSON.

Run by the Python of an environment with mlserver, tritonclient and tensorflow-serving-api:
``python schemas.py triton|models|warmup < FILE``.
"""

import json
import struct
import sys

from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict


def read_text(content, message):
    parsed = text_format.Parse(content, message)
    if text_format.Parse(text_format.MessageToString(parsed), type(message)()) != parsed:
        raise ValueError("it is another one after a round trip")
    return MessageToDict(parsed, preserving_proto_field_name=True)


def triton(content):
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return read_text(content, ModelConfig())


def models(content):
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    return read_text(content, ModelServerConfig())


def warmup(content):
    """Name, signature and the shape and values' sum of the images of every request."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    found = []
    while content:
        (length,) = struct.unpack_from("<Q", content)
        record, content = content[12 : 12 + length], content[16 + length :]
        log = PredictionLog.FromString(record)
        if log.SerializeToString(deterministic=True) != record:
            raise ValueError("it has other fields")
        request = log.predict_log.request
        images = tf.make_ndarray(request.inputs["images"])
        model = request.model_spec
        found.append([model.name, model.signature_name, list(images.shape), int(images.sum())])
    return found


if __name__ == "__main__":
    reader = {"triton": triton, "models": models, "warmup": warmup}[sys.argv[1]]
    print(json.dumps(reader(sys.stdin.buffer.read())))
