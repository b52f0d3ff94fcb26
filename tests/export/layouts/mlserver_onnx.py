"""What MLServer runs an exported model with: it has no runtime for ONNX of its own."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxModel(MLModel):
    """Answers pixels with logits."""

    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0])
        (logits,) = self._session.run(["logits"], {"images": images})
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)]
        )
